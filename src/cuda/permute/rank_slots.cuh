// How the slots of a tile rank among equals: the first half of place_slots
// (place_slots.cuh). A tile is kThreads * kItems consecutive slots; a warp takes
// 32 * kItems of them, 32 at a time. Start at rank_tile.
#pragma once

#include "cuda/permute/row_map.cuh"

namespace gg::cuda {

enum class MapKind {
  kOneBlock,  // one launch: this block's counts are all there are
  kExperts,   // after count_slots; E is known
  kAnyIds,    // after count_slots; E is unknown, and ids may be too large for this sort
};

// Shared memory of the sort, `bins` (a multiple of 8) entries each.
struct SortMemory {
  int bins;
  int* total;             // slots of a bin in all ranges
  int* earlier;           // ... in the ranges before this one
  int* next_row;          // row of this tile's first slot of a bin
  uint16_t* warp_counts;  // [warps, bins] slots of a bin in a warp, then in the warps before it
  uint16_t* tile_counts;  // slots of a bin in this tile
  int* staged;            // [warps, topK, map_pitch]

  __device__ SortMemory(void* memory, int bins, int num_warps)
      : bins(bins),
        total(static_cast<int*>(memory)),
        earlier(total + bins),
        next_row(earlier + bins),
        warp_counts(reinterpret_cast<uint16_t*>(next_row + bins)),
        tile_counts(warp_counts + num_warps * bins),
        staged(reinterpret_cast<int*>(tile_counts + bins)) {}
};

// Lanes of this warp that hold the same bin: by a vote on each of kBits bits, or
// (0) by the match instruction, which costs as much as ten votes.
template <int kBits>
__device__ __forceinline__ uint32_t lanes_with_same(uint32_t bin) {
  if constexpr (kBits == 0) return __match_any_sync(~0u, bin);
  uint32_t lanes = ~0u;
#pragma unroll
  for (int bit = 0; bit < kBits; ++bit) {
    const bool is_set = (bin >> bit & 1) != 0;
    const uint32_t votes = __ballot_sync(~0u, is_set);
    lanes &= is_set ? votes : ~votes;
  }
  return lanes;
}

// Turns each bin into bin << 16 | rank among the warp's equals, and counts them.
// Bins from `limit` on are dropped slots.
template <int kBits, int kItems>
__device__ __forceinline__ void rank_bins(uint32_t (&bins)[kItems], uint16_t* counts,
                                          uint32_t limit) {
  const uint32_t lanes_below = (1u << threadIdx.x % 32) - 1;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const uint32_t equals = lanes_with_same<kBits>(bins[i]);
    const uint32_t lower = __popc(equals & lanes_below);
    const bool valid = bins[i] < limit;
    const uint32_t before = valid ? counts[bins[i]] : 0;
    __syncwarp();
    if (valid && lower == 0) counts[bins[i]] = static_cast<uint16_t>(before + __popc(equals));
    __syncwarp();
    bins[i] = bins[i] << 16 | (before + lower);
  }
}

// Each count becomes the sum of those of earlier warps; two bins at a time.
template <int kThreads>
__device__ __forceinline__ void sum_over_warps(const SortMemory& memory) {
  const int pairs = memory.bins / 2;
  for (int pair = threadIdx.x; pair < pairs; pair += kThreads) {
    uint32_t* column = reinterpret_cast<uint32_t*>(memory.warp_counts) + pair;
    uint32_t sum = 0;
#pragma unroll 1
    for (int first = 0; first < kThreads / 32; first += 8) {
      uint32_t counts[8];
#pragma unroll
      for (int w = 0; w < 8; ++w) counts[w] = column[(first + w) * pairs];
#pragma unroll
      for (int w = 0; w < 8; ++w) {
        column[(first + w) * pairs] = sum;
        sum += counts[w];
      }
    }
    reinterpret_cast<uint32_t*>(memory.tile_counts)[pair] = sum;
  }
}

// Bins and ranks of a tile. Returns the bin from which on slots are dropped.
// All threads meet inside; afterwards each knows its own warp's part only.
template <int kThreads, int kItems, MapKind kKind>
__device__ __forceinline__ uint32_t rank_tile(const RowMapArgs& args, const SortMemory& memory,
                                              uint32_t tile, int* largest_bin,
                                              uint32_t (&bins)[kItems]) {
  const int warp = threadIdx.x / 32;
  int64_t ids[kItems];
  load_ids<kItems>(args, tile + warp * 32 * kItems + threadIdx.x % 32, 32, args.num_slots, ids);
  uint4* counts = reinterpret_cast<uint4*>(memory.warp_counts);
  for (int i = threadIdx.x; i < memory.bins * (kThreads / 32) / 8; i += kThreads) {
    counts[i] = make_uint4(0, 0, 0, 0);
  }
  const int most = kKind == MapKind::kAnyIds ? kFastBinsForUnknownExperts : args.num_experts;
  int largest = -1;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool valid = ids[i] >= 0 && ids[i] < most;
    bins[i] = valid ? static_cast<uint32_t>(ids[i]) : static_cast<uint32_t>(most);
    if (valid) largest = max(largest, static_cast<int>(ids[i]));
  }
  uint32_t limit = most;
  if constexpr (kKind == MapKind::kAnyIds) {  // few votes where ids are small
    if (largest >= 0) atomicMax(largest_bin, largest);
    __syncthreads();
    limit = *largest_bin + 1;
#pragma unroll
    for (int i = 0; i < kItems; ++i) bins[i] = min(bins[i], limit);
  } else {
    __syncthreads();
  }
  uint16_t* mine = memory.warp_counts + warp * memory.bins;
  if (limit < 16) {
    rank_bins<4>(bins, mine, limit);
  } else if (limit < 256) {
    rank_bins<8>(bins, mine, limit);
  } else if (limit < 1024) {
    rank_bins<10>(bins, mine, limit);
  } else {
    rank_bins<0>(bins, mine, limit);
  }
  __syncthreads();
  sum_over_warps<kThreads>(memory);
  return limit;
}

}  // namespace gg::cuda
