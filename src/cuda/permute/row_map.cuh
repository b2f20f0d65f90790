// Row map: where every slot's row goes when slots are ordered by expert, stably.
// A counting sort. The slots are cut into ranges, one for each block:
//
//   count_slots   counts a range's ids                            (count_slots.cuh)
//   place_slots   ranks its slots among equals while the above still runs, adds
//                 up the counts of the other ranges, hands out rows   (place_slots.cuh)
//
// Few slots need place_slots alone, as one block; and so do slots that the kernel which
// chose their experts has counted (routing/route.cu). Where experts have a capacity, one
// more launch drops what is beyond it (capacity.cuh). More experts than a table of
// counts for each warp has room for, and ids of 4096 and more where E is
// unknown, are sorted slowly and rightly (place_any_slots.cuh).
#pragma once

#include "cuda/common/number.cuh"
#include "cuda/common/slot_counts.cuh"
#include "cuda/permute/fast_div.h"
#include "cuda/permute/row_map_policy.h"

namespace gg::cuda {

// What one block of count_slots found where E is unknown.
struct BlockFacts {
  int num_bins;       // one more than the largest bin used
  int64_t large_min;  // smallest and largest id in the last bin
  int64_t large_max;
};

struct RowMapArgs {
  IntegerPointer indices;  // [T, topK]
  FastDiv topk;
  int num_tokens;
  uint32_t num_slots;
  int num_experts;  // 0: unknown
  int num_bins;
  int count_pitch;  // ranges in a column of `counts`, an even number
  int num_ranges;   // counted; as many as blocks, or ranges_per_block of them in each
  int ranges_per_block;
  uint32_t slots_per_block;
  int num_out;
  int align_size;          // a group's rows are padded to a multiple
  bool has_masks;          // place_slots ranks by masks in shared memory
  int* row_id_map;         // [topK, T]
  int* slot_of_row;        // [num_out] or null
  int* tokens_per_expert;  // [num_experts] or null
  int* offsets;            // [num_experts] or null
  void* counts;            // scratch [ceil(num_bins / 4), count_pitch, 4], 16 or 32 bits
  BlockFacts* facts;       // scratch [num_blocks] where E is unknown
  int* num_kept;           // scratch [1]: where the last group ends, before num_out cuts

  // Bin of an id, -1 where it is dropped.
  __device__ __forceinline__ int bin_of(int64_t id) const {
    if (id < 0 || (num_experts > 0 && id >= num_experts)) return -1;
    return num_experts > 0 || id < kMaxCountedId ? static_cast<int>(id) : kMaxCountedId;
  }
  __device__ __forceinline__ uint32_t first_slot() const { return blockIdx.x * slots_per_block; }
  __device__ __forceinline__ uint32_t end_slot() const {
    return min(first_slot() + slots_per_block, num_slots);
  }
  __device__ __forceinline__ void place(uint32_t slot, int64_t row) const {
    const uint32_t token = topk.quotient(slot);
    const uint32_t k = slot - token * topk.divisor;
    const bool kept = row >= 0 && row < num_out;
    row_id_map[static_cast<int64_t>(k) * num_tokens + token] = kept ? static_cast<int>(row) : -1;
    if (kept && slot_of_row != nullptr) slot_of_row[row] = static_cast<int>(slot);
  }
  template <typename Count>
  __device__ __forceinline__ Count& count_of(int range, int bin) const {
    return static_cast<Count*>(counts)[slot_count_index(range, bin, count_pitch)];
  }
  // 16 bytes of a column: of one range, or of two if counts have 16 bits.
  template <typename Count>
  __device__ __forceinline__ const uint4* column_of(int column, int range) const {
    return reinterpret_cast<const uint4*>(&count_of<Count>(range, 4 * column));
  }
  // Rows of a group of so many slots, pads included.
  __device__ __forceinline__ int padded(int count) const {
    if (align_size == 1) return count;
    const int over = count % align_size;
    return over == 0 ? count : count + (align_size - over);
  }
  // What the caller is told of a group that begins at `row`; by one thread.
  __device__ __forceinline__ void write_group(int expert, int row, int count) const {
    const int end = row + padded(count);
    if (tokens_per_expert != nullptr) {
      tokens_per_expert[expert] = count;
      offsets[expert] = end;
    }
    if (slot_of_row == nullptr) return;
    for (int pad = row + count; pad < end && pad < num_out; ++pad) slot_of_row[pad] = -1;
  }
  // Rows that no slot fills after the last group, shared out over the grid.
  __device__ __forceinline__ void mark_empty_rows(int kept) const {
    if (slot_of_row == nullptr) return;
    for (int64_t row = kept + static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
         row < num_out; row += static_cast<int64_t>(gridDim.x) * blockDim.x) {
      slot_of_row[row] = -1;
    }
  }
};

// kItems ids of a thread, `step` slots apart, all in flight together; -1 past the end.
template <int kItems>
__device__ __forceinline__ void load_ids(const RowMapArgs& args, uint32_t first, uint32_t step,
                                         uint32_t end, int64_t (&ids)[kItems]) {
  if (args.indices.is_int64) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const uint32_t slot = first + i * step;
      ids[i] = slot < end ? static_cast<const int64_t*>(args.indices.data)[slot] : -1;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const uint32_t slot = first + i * step;
      ids[i] = slot < end ? static_cast<const int32_t*>(args.indices.data)[slot] : -1;
    }
  }
}

}  // namespace gg::cuda
