// The one place where the CPU path turns a DType into a C++ type.
#pragma once

#include "base/small_float.h"
#include "grouped_gemm/tensor_view.h"

namespace gg::cpu {

template <typename T>
struct Tag {
  using type = T;
};

// Calls function(Tag<T>{}) for the floating-point type of `dtype`; plan has
// refused every other.
template <typename Function>
void with_float_type(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat32: return function(Tag<float>{});
    case DType::kFloat64: return function(Tag<double>{});
    case DType::kFloat16: return function(Tag<base::Half>{});
    case DType::kBFloat16: return function(Tag<base::BFloat16>{});
    case DType::kFloat8E4M3: return function(Tag<base::Float8E4M3>{});
    case DType::kFloat8E5M2: return function(Tag<base::Float8E5M2>{});
    case DType::kInt32:
    case DType::kInt64:
    case DType::kBool: return;
  }
}

// What a type is summed in: float, or double for double.
template <typename T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

template <typename To, typename From>
To convert(From value) {
  if constexpr (std::is_arithmetic_v<To> && std::is_arithmetic_v<From>) {
    return static_cast<To>(value);
  } else {
    return To(static_cast<float>(value));
  }
}

// Single values of a contiguous tensor whose type is not worth a template.
double load_float(const TensorView& tensor, int64_t index);
void store_float(const TensorView& tensor, int64_t index, double value);

inline int64_t load_integer(const TensorView& tensor, int64_t index) {
  return tensor.dtype == DType::kInt32 ? static_cast<const int32_t*>(tensor.data)[index]
                                       : static_cast<const int64_t*>(tensor.data)[index];
}

}  // namespace gg::cpu
