#include "farsim/space.h"

namespace farsim {
namespace {

// Calls `f` with a zero of the type that `dtype` stands for.
template <class F>
auto with_type(v1::DType dtype, F f) {
  switch (dtype) {
    case v1::DTYPE_BOOL: return f(bool{});
    case v1::DTYPE_UINT8: return f(uint8_t{});
    case v1::DTYPE_UINT16: return f(uint16_t{});
    case v1::DTYPE_UINT32: return f(uint32_t{});
    case v1::DTYPE_UINT64: return f(uint64_t{});
    case v1::DTYPE_INT8: return f(int8_t{});
    case v1::DTYPE_INT16: return f(int16_t{});
    case v1::DTYPE_INT32: return f(int32_t{});
    case v1::DTYPE_INT64: return f(int64_t{});
    case v1::DTYPE_FLOAT32: return f(float{});
    case v1::DTYPE_FLOAT64: return f(double{});
    default: throw std::invalid_argument("an element type that this kit has no C++ type for");
  }
}

size_t product(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (int64_t length : shape) count *= length;
  return count;
}

// A bound of a Box, which is a scalar or of the Box's shape, as one value's bytes.
std::string spread(const v1::Tensor& bound, size_t elements) {
  if (bound.shape_size() > 0) return bound.data();
  std::string all;
  for (size_t i = 0; i < elements; ++i) all += bound.data();
  return all;
}

// The leaf of integers from start[i] to start[i] + n[i] - 1.
Leaf counted(v1::DType dtype, std::vector<int64_t> shape, const int64_t* n, const int64_t* start) {
  if (dtype == v1::DTYPE_UNSPECIFIED) dtype = v1::DTYPE_INT64;
  const size_t count = product(shape);
  return with_type(dtype, [&](auto zero) {
    std::string low, high;
    for (size_t i = 0; i < count; ++i) {
      const int64_t first = start ? start[i] : 0;
      auto bound = static_cast<decltype(zero)>(first);
      low.append(reinterpret_cast<const char*>(&bound), sizeof(bound));
      bound = static_cast<decltype(zero)>(first + n[i] - 1);
      high.append(reinterpret_cast<const char*>(&bound), sizeof(bound));
    }
    return Leaf{dtype, shape, low, high};
  });
}

void collect(const v1::Space& space, std::vector<Leaf>& found) {
  switch (space.kind_case()) {
    case v1::Space::kBox: {
      const auto& box = space.box();
      const std::vector<int64_t> shape(box.shape().begin(), box.shape().end());
      with_type(box.dtype(), [](auto) {});
      const size_t count = product(shape);
      found.push_back({box.dtype(), shape, spread(box.low(), count), spread(box.high(), count)});
      return;
    }
    case v1::Space::kDiscrete: {
      const int64_t n = space.discrete().n(), start = space.discrete().start();
      found.push_back(counted(space.discrete().dtype(), {}, &n, &start));
      return;
    }
    case v1::Space::kMultiDiscrete: {
      const auto& multi = space.multi_discrete();
      const auto* start = multi.has_start() ? multi.start().data().data() : nullptr;
      found.push_back(counted(multi.dtype(), {multi.n().shape().begin(), multi.n().shape().end()},
                              reinterpret_cast<const int64_t*>(multi.n().data().data()),
                              reinterpret_cast<const int64_t*>(start)));
      return;
    }
    case v1::Space::kMultiBinary: {
      const auto& shape = space.multi_binary().shape();
      const std::vector<int64_t> lengths(shape.begin(), shape.end());
      const std::vector<int64_t> two(product(lengths), 2);
      found.push_back(counted(v1::DTYPE_INT8, lengths, two.data(), nullptr));
      return;
    }
    case v1::Space::kTuple:
      for (const auto& member : space.tuple().members()) collect(member, found);
      return;
    case v1::Space::kDict:
      for (const auto& member : space.dict().members()) collect(member.space(), found);
      return;
    default: throw std::invalid_argument("a kind of space that is no array");
  }
}

}  // namespace

size_t element_size(v1::DType dtype) {
  if (dtype == v1::DTYPE_FLOAT16) return 2;
  if (dtype < v1::DTYPE_BOOL || dtype > v1::DTYPE_FLOAT64) return 0;
  return with_type(dtype, [](auto zero) { return sizeof(zero); });
}

void check(const v1::Tensor& tensor, const std::string& subject) {
  const auto refuse = [&](const std::string& what) {
    throw Refusal(v1::ERROR_CODE_INVALID_TENSOR, subject + ": " + what, subject);
  };
  const size_t size = element_size(tensor.dtype());
  if (size == 0) refuse("there is no dtype " + std::to_string(tensor.dtype()));
  if (tensor.shape_size() > 32) refuse("more than 32 dimensions");
  size_t count = size;
  for (int64_t length : tensor.shape()) {
    if (length < 0) refuse("a negative dimension");
    if (__builtin_mul_overflow(count, static_cast<size_t>(length), &count))
      refuse("a shape too large");
  }
  if (tensor.data().size() != count) {
    refuse(std::to_string(tensor.data().size()) + " bytes, where dtype and shape say " +
           std::to_string(count));
  }
  if (tensor.dtype() == v1::DTYPE_BOOL) {
    for (char byte : tensor.data()) {
      if (byte != 0 && byte != 1) refuse("a bool that is neither 0 nor 1");
    }
  }
}

v1::Space box(const std::vector<float>& low, const std::vector<float>& high) {
  v1::Space space;
  const std::vector<int64_t> shape{static_cast<int64_t>(low.size())};
  space.mutable_box()->set_dtype(v1::DTYPE_FLOAT32);
  space.mutable_box()->add_shape(shape[0]);
  *space.mutable_box()->mutable_low() = pack(shape, low.data(), low.size());
  *space.mutable_box()->mutable_high() = pack(shape, high.data(), high.size());
  return space;
}

v1::Space number(double low, double high) {
  v1::Space space;
  space.mutable_box()->set_dtype(v1::DTYPE_FLOAT64);
  *space.mutable_box()->mutable_low() = pack(low);
  *space.mutable_box()->mutable_high() = pack(high);
  return space;
}

std::vector<Leaf> leaves(const v1::Space& space) {
  std::vector<Leaf> found;
  collect(space, found);
  return found;
}

void check(const Leaf& leaf, const v1::Tensor& tensor, size_t rows, v1::ErrorCode code,
           const std::string& subject) {
  check(tensor, subject);
  std::vector<int64_t> shape{static_cast<int64_t>(rows)};
  shape.insert(shape.end(), leaf.shape.begin(), leaf.shape.end());
  if (tensor.dtype() != leaf.dtype ||
      std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end()) != shape) {
    throw Refusal(code,
                  subject + " must be " + v1::DType_Name(leaf.dtype) + " with " +
                      std::to_string(rows) + " rows of the space's shape",
                  subject);
  }
}

bool inside(const Leaf& leaf, const char* row) {
  return with_type(leaf.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (size_t at = 0; at < leaf.bytes(); at += sizeof(T)) {
      T value, low, high;
      std::memcpy(&value, row + at, sizeof(T));
      std::memcpy(&low, leaf.low.data() + at, sizeof(T));
      std::memcpy(&high, leaf.high.data() + at, sizeof(T));
      if (!(low <= value && value <= high)) return false;  // NaN is outside.
    }
    return true;
  });
}

}  // namespace farsim
