// kLanes neighbouring lanes of a warp that hold one row together, 32 / kLanes
// rows to a warp; lane l has elements l, l + kLanes, ... Every function must be
// called by the whole warp. Sums have a fixed order. Used by src/cuda/routing.
#pragma once

#include <cstdint>

namespace gg::cuda {

template <int kLanes>
struct Lanes {
  static_assert(kLanes == 8 || kLanes == 32);
  static constexpr unsigned kWarp = 0xffffffffu;
  static constexpr int kRowsPerWarp = 32 / kLanes;

  // Every lane of the row gets the result.
  static __device__ __forceinline__ float sum(float value) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWarp, value, step);
    return value;
  }

  static __device__ __forceinline__ float max(float value) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
      value = fmaxf(value, __shfl_xor_sync(kWarp, value, step));
    }
    return value;
  }

  static __device__ __forceinline__ uint32_t max(uint32_t value) {
#if __CUDA_ARCH__ >= 800
    if constexpr (kLanes == 32) {
      return __reduce_max_sync(kWarp, value);
    } else
#endif
    {
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        const uint32_t other = __shfl_xor_sync(kWarp, value, step);
        value = other > value ? other : value;
      }
      return value;
    }
  }

  static __device__ __forceinline__ int min(int value) {
#if __CUDA_ARCH__ >= 800
    if constexpr (kLanes == 32) {
      return __reduce_min_sync(kWarp, value);
    } else
#endif
    {
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        const int other = __shfl_xor_sync(kWarp, value, step);
        value = other < value ? other : value;
      }
      return value;
    }
  }

  // Adds up the warp's rows, element by element.
  static __device__ __forceinline__ float sum_rows(float value) {
#pragma unroll
    for (int step = 16; step >= kLanes; step /= 2) value += __shfl_xor_sync(kWarp, value, step);
    return value;
  }
};

}  // namespace gg::cuda
