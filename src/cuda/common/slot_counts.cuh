// Where the counts lie that the row map adds up: of each range of consecutive slots
// how many each expert has. Four neighbouring bins are a column; the counts of all
// ranges stand side by side. Written by permute/count_slots.cuh, or by the kernel that
// chose the experts (routing/route.cuh); read by permute/place_slots.cuh.
#pragma once

#include <cstdint>

namespace gg::cuda {

// Of a table [ceil(bins / 4), pitch, 4], pitch being the ranges' number or one more.
__device__ __forceinline__ int64_t slot_count_index(int range, int bin, int pitch) {
  return 4 * (static_cast<int64_t>(bin / 4) * pitch + range) + bin % 4;
}

// A table of 16-bit counts as the kernel that fills it knows it.
struct SlotCounts {
  uint16_t* counts = nullptr;  // null: none is wanted
  int pitch = 0;
  int num_bins = 0;  // the experts', and some up to a whole column, of which no slot is
};

}  // namespace gg::cuda
