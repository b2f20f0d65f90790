// What the launches of unpermute and its backward share.
#pragma once

#include "cuda/common/dispatch.h"
#include "cuda/permute/window.cuh"
#include "grouped_gemm/tensor_view.h"

namespace gg::cuda {

inline void require_supported(const char* op, DType dtype) {
  with_number_type(op, dtype, [](auto) {});
}

inline void require_supported_probs(const char* op, const TensorView& probs) {
  GG_REQUIRE(!probs.defined() || probs.dtype != DType::kFloat64, op,
             ": probs got dtype float64; needs float32, bfloat16 or float16 on a CUDA device; "
             "cast it");
}

inline InnerRows inner_rows(const TensorView& matrix) {
  return {matrix.size(0), matrix.stride(0) * size_of(matrix.dtype)};
}

}  // namespace gg::cuda
