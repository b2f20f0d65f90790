// What cp.async can reach of a tensor: pure host functions for policies. A copy is of 16
// bytes, so rows start at multiples of that and hold whole copies. No CUDA in this header.
#pragma once

#include <cstdint>

#include "grouped_gemm/tensor_view.h"

namespace gg::cuda::sm80 {

inline constexpr int64_t kCopyBytes = 16;
inline constexpr int64_t kMaxPitchBytes = int64_t{1} << 31;  // a 32-bit factor in the kernels
inline constexpr int64_t kMaxExtent = int64_t{1} << 30;      // coordinates are int32

inline bool is_aligned(const TensorView& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % kCopyBytes == 0;
}

inline bool has_unit_stride(const TensorView& tensor, int dim) {
  return tensor.size(dim) == 1 || tensor.stride(dim) == 1;
}

// Whether rows along `dim` hold whole copies.
inline bool has_whole_copies(const TensorView& tensor, int dim) {
  return tensor.size(dim) * size_of(tensor.dtype) % kCopyBytes == 0;
}

// Whether rows that lie a step of `dim` apart all start at multiples of a copy.
inline bool has_good_pitch(const TensorView& tensor, int dim) {
  if (tensor.size(dim) == 1) return true;
  const int64_t bytes = tensor.stride(dim) * size_of(tensor.dtype);
  return bytes >= 0 && bytes < kMaxPitchBytes && bytes % kCopyBytes == 0;
}

// Matrices [E, rows, columns], of which dimension `inner` (1 or 2) has stride 1 and can be copied.
inline bool are_good_matrices(const TensorView& tensor, int inner) {
  return has_unit_stride(tensor, inner) && has_whole_copies(tensor, inner) &&
         has_good_pitch(tensor, 3 - inner) &&
         (tensor.size(0) == 1 || tensor.stride(0) * size_of(tensor.dtype) % kCopyBytes == 0);
}

// The distance in elements between neighbours along `dim`. Dimensions of size 1 may have any
// stride; nothing steps along them.
inline int64_t step_of(const TensorView& tensor, int dim) {
  return tensor.size(dim) > 1 ? tensor.stride(dim) : 0;
}

}  // namespace gg::cuda::sm80
