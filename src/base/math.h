// Integer math that host and device code share.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GG_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GG_HOST_DEVICE inline
#endif

namespace gg::base {

// For values >= 0; right up to the largest int64.
GG_HOST_DEVICE constexpr int64_t ceil_div(int64_t value, int64_t divisor) {
  return value / divisor + (value % divisor != 0 ? 1 : 0);
}

GG_HOST_DEVICE constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

GG_HOST_DEVICE constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
GG_HOST_DEVICE constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
GG_HOST_DEVICE constexpr int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return min(max(value, low), high);
}

}  // namespace gg::base
