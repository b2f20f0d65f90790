// The one place where the CUDA backend turns a DType and an access width into
// template arguments. Included by the .cu files that launch kernels.
#pragma once

#include "base/check.h"
#include "cuda/common/number.cuh"
#include "grouped_gemm/tensor_view.h"

namespace gg::cuda {

template <typename T>
struct Tag {
  using type = T;
};

// function(Tag<T>{}) for the element types of the permutation.
template <typename Function>
void with_number_type(const char* op, DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat32: return function(Tag<float>{});
    case DType::kFloat16: return function(Tag<__half>{});
    case DType::kBFloat16: return function(Tag<__nv_bfloat16>{});
    case DType::kFloat8E4M3: return function(Tag<Float8E4M3>{});
    case DType::kFloat8E5M2: return function(Tag<Float8E5M2>{});
    default: break;
  }
  GG_REQUIRE(false, op, ": got dtype ", to_string(dtype),
             "; needs float32, float16, bfloat16 or a float8 on a CUDA device; cast it");
}

// The widest access, at most 16 bytes, that every row of a tensor allows: base
// address, row pitch and row length must be multiples of it.
inline int common_vector_bytes(const TensorView& tensor, int widest = 16) {
  const int64_t element = size_of(tensor.dtype);
  const int64_t facts = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensor.data)) |
                        (tensor.size(0) > 1 ? tensor.stride(0) * element : 0) |
                        (tensor.size(1) * element);
  int bytes = widest;
  while (facts % bytes != 0) bytes /= 2;
  return bytes;
}

}  // namespace gg::cuda
