// Division by a number that is known at launch: a multiplication and a shift.
#pragma once

#include <cstdint>

namespace gg::cuda {

// value / divisor for 0 <= value < 2^31 and divisor >= 1 (Granlund and
// Montgomery 1994).
struct FastDiv {
  uint32_t divisor;
  uint32_t magic;
  uint32_t shift;

  explicit FastDiv(uint32_t by) : divisor(by), shift(0) {
    while ((uint64_t{1} << shift) < by) ++shift;
    magic = static_cast<uint32_t>((((uint64_t{1} << shift) - by) << 32) / by + 1);
  }

#ifdef __CUDACC__
  __device__ __forceinline__ uint32_t quotient(uint32_t value) const {
    return (__umulhi(value, magic) + value) >> shift;
  }
#endif
};

}  // namespace gg::cuda
