// What the copy engine can reach of a tensor: pure host functions for policies
// and descriptors. No CUDA in this header.
#pragma once

#include <cstdint>

#include "cuda/gemm/layouts.h"

namespace gg::cuda::sm90 {

inline constexpr int64_t kCopyAlignment = 16;                // bytes, of addresses and strides
inline constexpr int64_t kMaxPitchBytes = int64_t{1} << 34;  // of the clipped view, tensor_maps.cc
inline constexpr int64_t kMaxMatrixBytes = int64_t{1} << 39;
inline constexpr int64_t kMaxExtent = int64_t{1} << 30;  // coordinates are int32; tensor_maps.cc

// Whether the copy engine can step along `dim` so far. Stride 0 (an expanded tensor) it cannot.
inline bool has_good_stride(const TensorView& tensor, int dim, int64_t max_bytes) {
  if (tensor.size(dim) == 1) return true;
  const int64_t bytes = tensor.stride(dim) * size_of(tensor.dtype);
  return bytes > 0 && bytes < max_bytes && has_aligned_steps(tensor, dim, kCopyAlignment);
}

inline bool has_good_pitch(const TensorView& tensor, int dim) {
  return has_good_stride(tensor, dim, kMaxPitchBytes);
}

// Matrices [E, rows, columns], of which dimension `inner` (1 or 2) has stride 1.
inline bool are_good_matrices(const TensorView& tensor, int inner) {
  return has_unit_stride(tensor, inner) && has_good_pitch(tensor, 3 - inner) &&
         has_good_stride(tensor, 0, kMaxMatrixBytes);
}

// The distance in elements between neighbouring rows. Dimensions of size 1 may
// have any stride, so `packed` stands in for it.
inline int64_t pitch_of(const TensorView& tensor, int dim, int64_t packed) {
  return tensor.size(dim) > 1 ? tensor.stride(dim) : packed;
}

}  // namespace gg::cuda::sm90
