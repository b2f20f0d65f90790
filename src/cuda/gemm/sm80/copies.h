// What cp.async can reach of a tensor: pure host functions for policies. A copy is of 16
// bytes, so rows start at multiples of that and hold whole copies. No CUDA in this header.
#pragma once

#include <cstdint>

#include "cuda/gemm/layouts.h"

namespace gg::cuda::sm80 {

inline constexpr int64_t kCopyBytes = 16;
inline constexpr int64_t kMaxPitchBytes = int64_t{1} << 31;  // a 32-bit factor in the kernels
inline constexpr int64_t kMaxExtent = int64_t{1} << 30;      // coordinates are int32

// Whether rows that lie a step of `dim` apart all start at multiples of a copy.
inline bool has_good_pitch(const TensorView& tensor, int dim) {
  const int64_t bytes = step_of(tensor, dim) * size_of(tensor.dtype);
  return bytes >= 0 && bytes < kMaxPitchBytes && has_aligned_steps(tensor, dim, kCopyBytes);
}

// Matrices [E, rows, columns], of which dimension `inner` (1 or 2) has stride 1 and can be copied.
inline bool are_good_matrices(const TensorView& tensor, int inner) {
  return has_unit_stride(tensor, inner) && has_whole_rows(tensor, inner, kCopyBytes) &&
         has_good_pitch(tensor, 3 - inner) && has_aligned_steps(tensor, 0, kCopyBytes);
}

}  // namespace gg::cuda::sm80
