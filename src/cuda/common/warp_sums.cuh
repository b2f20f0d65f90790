// Sums over a warp of several values at once. Called by the whole warp; the order of
// the sums is fixed.
#pragma once

#include <cuda_runtime.h>

namespace gg::cuda {

// Sends away the upper or the lower half of 2 * kHalf values, and so on until one is left.
template <int kHalf, int kCount, typename Value>
__device__ __forceinline__ void fold(Value (&values)[kCount]) {
  const bool is_upper = (threadIdx.x & kHalf) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const Value keep = is_upper ? values[i + kHalf] : values[i];
    const Value send = is_upper ? values[i] : values[i + kHalf];
    values[i] = keep + __shfl_xor_sync(~0u, send, kHalf);
  }
  if constexpr (kHalf > 1) fold<kHalf / 2>(values);
}

// The sums over a warp of kCount values at once, a power of two: lane l gets that
// of value l % kCount.
template <int kCount, typename Value>
__device__ __forceinline__ Value warp_sums(Value (&values)[kCount]) {
  if constexpr (kCount > 1) fold<kCount / 2>(values);
#pragma unroll
  for (int step = kCount; step < 32; step *= 2) {
    values[0] += __shfl_xor_sync(~0u, values[0], step);
  }
  return values[0];
}

}  // namespace gg::cuda
