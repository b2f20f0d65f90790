// How a GEMM's tensors lie in memory, as policies and launches ask it, and which operand of
// a wgrad plays which role: pure host functions. How large a load is, each path says itself.
// A dimension of size 1 may have any stride: nothing steps along it. No CUDA in this header.
#pragma once

#include <cstdint>

#include "grouped_gemm/gmm.h"

namespace gg::cuda {

inline bool is_aligned(const TensorView& tensor, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(bytes) == 0;
}

inline bool has_unit_stride(const TensorView& tensor, int dim) {
  return tensor.size(dim) <= 1 || tensor.stride(dim) == 1;
}

// The distance in elements between neighbours along `dim`.
inline int64_t step_of(const TensorView& tensor, int dim) {
  return tensor.size(dim) > 1 ? tensor.stride(dim) : 0;
}

// Whether every step along `dim` leads from one multiple of so many bytes to another.
inline bool has_aligned_steps(const TensorView& tensor, int dim, int64_t bytes) {
  return step_of(tensor, dim) * size_of(tensor.dtype) % bytes == 0;
}

// Whether what lies along `dim`, contiguous, is a multiple of so many bytes long.
inline bool has_whole_rows(const TensorView& tensor, int dim, int64_t bytes) {
  return tensor.size(dim) * size_of(tensor.dtype) % bytes == 0;
}

// out[e] = left^T right over the rows of group e, so that out's contiguous dimension is
// right's: dy is left for out [E, N, K], the tokens are left where out is the transposed
// view of an [E, K, N].
struct WgradRoles {
  const TensorView& left;   // [T, rows of out]
  const TensorView& right;  // [T, columns of out]
  const char* left_name;
  const char* right_name;
  int row_dim;     // of out
  int column_dim;  // of out, with stride 1
};

inline WgradRoles roles_of(const GmmWgradProblem& problem, int column_dim) {
  if (column_dim == 2) return {problem.dy, problem.tokens, "dy", "a", 1, 2};
  return {problem.tokens, problem.dy, "a", "dy", 2, 1};
}

// For an out with a contiguous dimension.
inline WgradRoles roles_of(const GmmWgradProblem& problem) {
  return roles_of(problem, has_unit_stride(problem.out, 2) ? 2 : 1);
}

}  // namespace gg::cuda
