// What wgmma is told of an operand in shared memory, 128-byte swizzle.
#pragma once

#include <cstdint>

namespace gg::cuda::sm90 {

// An operand of 128 bytes a row: groups of eight rows follow each other at 1024 bytes,
// whichever is its major.
__device__ __forceinline__ uint64_t operand_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kNextEightRows = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kNextEightRows | kUnused | (address & 0x3ffff) >> 4;
}

// An operand whose features are its major dimension: eight token rows
// at 128 bytes each, swizzled; the next eight follow at 1024 bytes, the next 64
// features at box_bytes.
__device__ __forceinline__ uint64_t feature_major_descriptor(uint32_t address, int box_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kNextEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kNextEightRows | static_cast<uint64_t>(box_bytes >> 4) << 16 |
         (address & 0x3ffff) >> 4;
}

}  // namespace gg::cuda::sm90
