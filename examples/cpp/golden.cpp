// Encodes the values of tests/data/golden and compares them with the bytes there:
//   golden FOLDER
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>

#include "farsim/space.h"

namespace v1 = farsim::v1;
using Json = google::protobuf::Value;

namespace {

int failures = 0, passed = 0;

void expect(bool good, const std::string& file, const Json& test, const std::string& what) {
  ++(good ? passed : failures);
  if (good) return;
  std::cerr << file << ": " << test.struct_value().fields().at("name").string_value() << ": "
            << what << "\n";
}

const Json& member(const Json& object, const std::string& name) {
  return object.struct_value().fields().at(name);
}

std::string bytes_of_hex(const std::string& hex) {
  std::string bytes;
  for (size_t at = 0; at < hex.size(); at += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(at, 2), nullptr, 16));
  }
  return bytes;
}

template <class T>
void append(std::string& data, T value) {
  data.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Of a number that binary16 has exactly, and that is normal there or infinite.
uint16_t half(double number) {
  const float single = static_cast<float>(number);
  uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  const uint16_t sign = (bits >> 16) & 0x8000;
  if (std::isinf(number)) return sign | 0x7C00;
  if (number == 0) return sign;
  const uint16_t exponent = ((bits >> 23) & 0xFF) - 127 + 15;
  return sign | (exponent << 10) | ((bits >> 13) & 0x3FF);
}

// 64-bit integers and infinite numbers are strings in the files.
void append_number(std::string& data, v1::DType dtype, const Json& json) {
  const bool is_text = json.kind_case() == Json::kStringValue;
  const std::string& text = json.string_value();
  const double number = json.kind_case() == Json::kBoolValue ? json.bool_value()
                        : is_text                            ? std::stod(text)
                                                             : json.number_value();
  switch (dtype) {
    case v1::DTYPE_BOOL: return append(data, static_cast<uint8_t>(number));
    case v1::DTYPE_UINT8: return append(data, static_cast<uint8_t>(number));
    case v1::DTYPE_UINT16: return append(data, static_cast<uint16_t>(number));
    case v1::DTYPE_UINT32: return append(data, static_cast<uint32_t>(number));
    case v1::DTYPE_UINT64: return append(data, static_cast<uint64_t>(std::stoull(text)));
    case v1::DTYPE_INT8: return append(data, static_cast<int8_t>(number));
    case v1::DTYPE_INT16: return append(data, static_cast<int16_t>(number));
    case v1::DTYPE_INT32: return append(data, static_cast<int32_t>(number));
    case v1::DTYPE_INT64: return append(data, static_cast<int64_t>(std::stoll(text)));
    case v1::DTYPE_FLOAT16: return append(data, half(number));
    case v1::DTYPE_FLOAT32: return append(data, static_cast<float>(number));
    default: return append(data, number);
  }
}

// The elements of nested lists, in C order.
void append_all(std::string& data, v1::DType dtype, const Json& json) {
  if (json.kind_case() != Json::kListValue) return append_number(data, dtype, json);
  for (const Json& element : json.list_value().values()) append_all(data, dtype, element);
}

using Rows = std::vector<const Json*>;
using Shape = google::protobuf::RepeatedField<int64_t>;

class Encoder {
 public:
  v1::Value encode(const v1::Space& space, const Rows& rows) {
    add(space, rows);
    return std::move(value_);
  }

 private:
  v1::Tensor* tensor(v1::DType dtype, size_t rows, const Shape& shape = {}) {
    v1::Tensor* made = value_.add_tensors();
    made->set_dtype(dtype);
    made->add_shape(rows);
    made->mutable_shape()->MergeFrom(shape);
    return made;
  }

  void arrays(v1::DType dtype, const Rows& rows, const Shape& shape) {
    if (dtype == v1::DTYPE_UNSPECIFIED) dtype = v1::DTYPE_INT64;
    v1::Tensor* made = tensor(dtype, rows.size(), shape);
    for (const Json* row : rows) append_all(*made->mutable_data(), dtype, *row);
  }

  // Lists, one for each row: a tensor of their lengths. Returns their elements.
  Rows lengths(const Rows& rows,
               const std::function<const google::protobuf::ListValue*(const Json&)>& list) {
    v1::Tensor* counts = tensor(v1::DTYPE_INT64, rows.size());
    Rows elements;
    for (const Json* row : rows) {
      const auto* found = list(*row);
      append<int64_t>(*counts->mutable_data(), found ? found->values_size() : 0);
      for (int i = 0; found && i < found->values_size(); ++i) elements.push_back(&found->values(i));
    }
    return elements;
  }

  static const google::protobuf::ListValue* field(const Json& row, const std::string& name) {
    const auto& fields = row.struct_value().fields();
    const auto at = fields.find(name);
    return at == fields.end() ? nullptr : &at->second.list_value();
  }

  void add(const v1::Space& space, const Rows& rows) {
    Rows inner;
    switch (space.kind_case()) {
      case v1::Space::kBox: return arrays(space.box().dtype(), rows, space.box().shape());
      case v1::Space::kDiscrete: return arrays(space.discrete().dtype(), rows, {});
      case v1::Space::kMultiDiscrete:
        return arrays(space.multi_discrete().dtype(), rows, space.multi_discrete().n().shape());
      case v1::Space::kMultiBinary:
        return arrays(v1::DTYPE_INT8, rows, space.multi_binary().shape());
      case v1::Space::kText: {
        v1::Tensor* lengths = tensor(v1::DTYPE_INT64, rows.size());
        std::string all;
        for (const Json* row : rows) {
          append<int64_t>(*lengths->mutable_data(), row->string_value().size());
          all += row->string_value();
        }
        return tensor(v1::DTYPE_UINT8, all.size())->set_data(all);
      }
      case v1::Space::kTuple:
        for (int i = 0; i < space.tuple().members_size(); ++i) {
          inner.clear();
          for (const Json* row : rows) inner.push_back(&row->list_value().values(i));
          add(space.tuple().members(i), inner);
        }
        return;
      case v1::Space::kDict:
        for (const auto& part : space.dict().members()) {
          inner.clear();
          for (const Json* row : rows) inner.push_back(&member(*row, part.name()));
          add(part.space(), inner);
        }
        return;
      case v1::Space::kSequence:
        inner = lengths(rows, [](const Json& row) { return &row.list_value(); });
        return add(space.sequence().element(), inner);
      case v1::Space::kGraph: {
        const Rows nodes = lengths(rows, [](const Json& row) { return field(row, "nodes"); });
        const Rows edges = lengths(rows, [](const Json& row) { return field(row, "edges"); });
        add(space.graph().node(), nodes);
        if (!space.graph().has_edge()) return;
        add(space.graph().edge(), edges);
        std::string links;
        for (const Json* row : rows) {
          if (const auto* found = field(*row, "links")) {
            for (const Json& link : found->values()) append_all(links, v1::DTYPE_INT32, link);
          }
        }
        Shape two;
        two.Add(2);
        return tensor(v1::DTYPE_INT32, edges.size(), two)->set_data(links);
      }
      case v1::Space::kOneOf: {
        v1::Tensor* chosen = tensor(v1::DTYPE_INT64, rows.size());
        const auto number = [](const Json& row) {
          return std::stoll(row.list_value().values(0).string_value());
        };
        for (const Json* row : rows) append<int64_t>(*chosen->mutable_data(), number(*row));
        for (int i = 0; i < space.one_of().members_size(); ++i) {
          inner.clear();
          for (const Json* row : rows) {
            if (number(*row) == i) inner.push_back(&row->list_value().values(1));
          }
          add(space.one_of().members(i), inner);
        }
        return;
      }
      default: throw std::invalid_argument("a space of no kind");
    }
  }

  v1::Value value_;
};

void test_tensor(const Json& test) {
  v1::Tensor tensor;
  v1::DType dtype = v1::DTYPE_UNSPECIFIED;
  std::string name = "DTYPE_" + member(test, "dtype").string_value();
  for (char& letter : name) letter = std::toupper(letter);
  v1::DType_Parse(name, &dtype);
  tensor.set_dtype(dtype);
  for (const Json& length : member(test, "shape").list_value().values()) {
    tensor.add_shape(static_cast<int64_t>(length.number_value()));
  }
  append_all(*tensor.mutable_data(), dtype, member(test, "values"));
  farsim::check(tensor, "tensor");
  const bool same =
      tensor.SerializeAsString() == bytes_of_hex(member(test, "message").string_value());
  expect(same, "tensors.json", test, tensor.ShortDebugString());
}

void test_space(const Json& test) {
  v1::Space space;
  std::string text;
  const bool read =
      google::protobuf::util::MessageToJsonString(member(test, "space"), &text).ok() &&
      google::protobuf::util::JsonStringToMessage(text, &space).ok();
  const bool same =
      space.SerializeAsString() == bytes_of_hex(member(test, "message").string_value());
  expect(read && same, "spaces.json", test, space.ShortDebugString());
}

void test_value(const Json& test) {
  v1::Space space;
  expect(space.ParseFromString(bytes_of_hex(member(test, "space").string_value())), "values.json",
         test, "its space can not be read");
  Rows rows;
  for (const Json& row : member(test, "values").list_value().values()) rows.push_back(&row);
  const v1::Value value = Encoder().encode(space, rows);
  const bool same =
      value.SerializeAsString() == bytes_of_hex(member(test, "message").string_value());
  expect(same, "values.json", test, value.ShortDebugString());
  std::vector<farsim::Leaf> leaves;
  try {
    leaves = farsim::leaves(space);
  } catch (const std::invalid_argument&) {
    return;  // Not all arrays.
  }
  for (size_t leaf = 0; leaf < leaves.size(); ++leaf) {
    const v1::Tensor& tensor = value.tensors(leaf);
    farsim::check(leaves[leaf], tensor, rows.size(), v1::ERROR_CODE_INVALID_ACTION, "value");
    for (size_t row = 0; row < rows.size(); ++row) {
      const char* bytes = tensor.data().data() + row * leaves[leaf].bytes();
      expect(farsim::inside(leaves[leaf], bytes), "values.json", test,
             "said to be outside the space");
    }
  }
}

void test_rejected(const Json& test) {
  v1::Tensor tensor;
  bool refused = !tensor.ParseFromString(bytes_of_hex(member(test, "message").string_value()));
  try {
    farsim::check(tensor, "tensor");
  } catch (const farsim::Refusal&) {
    refused = true;
  }
  expect(refused, "rejected.json", test, "is not rejected");
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, void (*)(const Json&)> files{{"tensors.json", test_tensor},
                                                           {"spaces.json", test_space},
                                                           {"values.json", test_value},
                                                           {"rejected.json", test_rejected}};
  for (const auto& [name, test] : files) {
    std::ifstream file(std::string(argc > 1 ? argv[1] : ".") + "/" + name);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    Json cases;
    if (!google::protobuf::util::JsonStringToMessage(text, &cases).ok()) {
      std::cerr << "error: " << name << " can not be read\n";
      return 2;
    }
    for (const Json& one : cases.list_value().values()) {
      try {
        test(one);
      } catch (const std::exception& error) {
        expect(false, name, one, error.what());
      }
    }
  }
  std::cout << passed << " passed, " << failures << " failed\n";
  return failures ? 1 : 0;
}
