// Tensors and spaces: arrays as bytes, and what is a member of a space.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "farsim/v1/simulator.pb.h"

namespace farsim {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are little-endian");

// A request that cannot be carried out; it becomes an `error` reply.
struct Refusal : std::runtime_error {
  Refusal(v1::ErrorCode code, const std::string& message, std::string subject = "")
      : std::runtime_error(message), code(code), subject(std::move(subject)) {}
  v1::ErrorCode code;
  std::string subject;
};

size_t element_size(v1::DType dtype);  // In bytes; 0 for none of the contract's types.

template <class T>
constexpr v1::DType dtype_of() {
  if constexpr (std::is_same_v<T, bool>) return v1::DTYPE_BOOL;
  if constexpr (std::is_same_v<T, uint8_t>) return v1::DTYPE_UINT8;
  if constexpr (std::is_same_v<T, uint16_t>) return v1::DTYPE_UINT16;
  if constexpr (std::is_same_v<T, uint32_t>) return v1::DTYPE_UINT32;
  if constexpr (std::is_same_v<T, uint64_t>) return v1::DTYPE_UINT64;
  if constexpr (std::is_same_v<T, int8_t>) return v1::DTYPE_INT8;
  if constexpr (std::is_same_v<T, int16_t>) return v1::DTYPE_INT16;
  if constexpr (std::is_same_v<T, int32_t>) return v1::DTYPE_INT32;
  if constexpr (std::is_same_v<T, int64_t>) return v1::DTYPE_INT64;
  if constexpr (std::is_same_v<T, float>) return v1::DTYPE_FLOAT32;
  if constexpr (std::is_same_v<T, double>) return v1::DTYPE_FLOAT64;
  return v1::DTYPE_UNSPECIFIED;
}

// `count` elements as a tensor of `shape`, whose product is `count`.
template <class T>
v1::Tensor pack(const std::vector<int64_t>& shape, const T* elements, size_t count) {
  v1::Tensor tensor;
  tensor.set_dtype(dtype_of<T>());
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_data(elements, count * sizeof(T));
  return tensor;
}

template <class T>
v1::Tensor pack(T scalar) {
  return pack<T>({}, &scalar, 1);
}

// Refuses (ERROR_CODE_INVALID_TENSOR) what a receiver must reject.
void check(const v1::Tensor& tensor, const std::string& subject);

// A part of a space that becomes one tensor: the arrays of a Box, Discrete, MultiDiscrete or
// MultiBinary.
struct Leaf {
  v1::DType dtype;
  std::vector<int64_t> shape;
  std::string low, high;  // The bytes of one value each.
  size_t bytes() const { return low.size(); }
};

v1::Space box(const std::vector<float>& low, const std::vector<float>& high);
v1::Space number(double low, double high);  // A Box of one float64, of no dimension.

// The leaves of a space, depth first. Throws std::invalid_argument for kinds that are not arrays
// (Text, Sequence, Graph, OneOf) and for float16.
std::vector<Leaf> leaves(const v1::Space& space);

// Refuses with `code` unless `tensor` is `rows` rows of `leaf`; what is in them is not looked at.
void check(const Leaf& leaf, const v1::Tensor& tensor, size_t rows, v1::ErrorCode code,
           const std::string& subject);

// Whether the bytes of one row are a member.
bool inside(const Leaf& leaf, const char* row);

// One environment's row of every leaf, to read or to write.
class Row {
 public:
  Row(const std::vector<Leaf>& leaves, std::vector<std::string>& columns, size_t index)
      : leaves_(leaves), columns_(columns), index_(index) {}

  // The elements of leaf number `leaf`, whose dtype is T's.
  template <class T>
  T* at(size_t leaf) {
    if (leaves_[leaf].dtype != dtype_of<T>())
      throw std::logic_error("another dtype than the leaf's");
    return reinterpret_cast<T*>(columns_[leaf].data() + index_ * leaves_[leaf].bytes());
  }

 private:
  const std::vector<Leaf>& leaves_;
  std::vector<std::string>& columns_;
  size_t index_;
};

}  // namespace farsim
