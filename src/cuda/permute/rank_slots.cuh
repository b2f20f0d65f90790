// How the slots of a tile rank among equals: the first half of place_slots
// (place_slots.cuh). A tile is kThreads * kItems consecutive slots; a warp takes
// 32 * kItems of them, 32 at a time. Start at rank_tile.
#pragma once

#include "cuda/permute/row_map.cuh"

namespace gg::cuda {

enum class MapKind {
  kOneBlock,  // one launch: this block's counts are all there are
  kExperts,   // after count_slots; E is known
  kCounted,   // the same after the kernel that chose the experts and counted them
  kAnyIds,    // after count_slots; E is unknown, and ids may be too large for this sort
};

// Shared memory of the sort, `bins` (a multiple of 8) entries each.
struct SortMemory {
  int bins;
  int* total;             // slots of a bin in all ranges
  int* earlier;           // ... in the ranges before this one
  int* next_row;          // row of this tile's first slot of a bin
  uint16_t* warp_counts;  // [warps, bins] slots of a bin in a warp, then in the warps before it
  uint32_t* warp_masks;   // [warps, bins] a warp's lanes that hold a bin, while it ranks; or null
  uint16_t* tile_counts;  // slots of a bin in this tile

  __device__ SortMemory(void* memory, int bins, int num_warps, bool has_masks)
      : bins(bins),
        total(static_cast<int*>(memory)),
        earlier(total + bins),
        next_row(earlier + bins),
        warp_counts(reinterpret_cast<uint16_t*>(next_row + bins)),
        warp_masks(has_masks ? reinterpret_cast<uint32_t*>(warp_counts + num_warps * bins)
                             : nullptr),
        tile_counts(warp_counts + (has_masks ? 3 : 1) * num_warps * bins) {}

  // Of all warps: counts, and masks, which stand behind them.
  __device__ __forceinline__ void clear(int num_threads) const {
    const int num_warps = num_threads / 32;
    uint4* const vectors = reinterpret_cast<uint4*>(warp_counts);
    const int num_vectors = (warp_masks != nullptr ? 3 : 1) * num_warps * bins / 8;
    for (int i = threadIdx.x; i < num_vectors; i += num_threads)
      vectors[i] = make_uint4(0, 0, 0, 0);
  }
};

// Turns each bin into bin << 16 | rank among the warp's equals, and counts them.
// Bin `dropped` is that of dropped slots. The lanes that hold the same bin set their
// bits in its mask, in any order; the mask is 0 before and after. H200, 2026-11-22,
// us, 128 experts, by eight votes and by masks: 4 K slots 5.72 and 4.74, 64 K 4.18 and
// 4.01, 1 M 18.18 and 13.78. The match instruction costs as much as ten votes.
template <bool kHasMasks, int kItems>
__device__ __forceinline__ void rank_bins(uint32_t (&bins)[kItems], uint16_t* counts,
                                          uint32_t* masks, uint32_t dropped) {
  const uint32_t lane_bit = 1u << threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool valid = bins[i] != dropped;
    uint32_t equals;
    if constexpr (kHasMasks) {
      if (valid) atomicOr(&masks[bins[i]], lane_bit);
      __syncwarp();
      equals = valid ? masks[bins[i]] : 0;
    } else {
      equals = __match_any_sync(~0u, bins[i]);
    }
    const uint32_t lower = __popc(equals & (lane_bit - 1));
    const uint32_t before = valid ? counts[bins[i]] : 0;
    __syncwarp();
    if (valid && lower == 0) {
      counts[bins[i]] = static_cast<uint16_t>(before + __popc(equals));
      if constexpr (kHasMasks) masks[bins[i]] = 0;
    }
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

// The bin that stands for dropped slots: one more than the largest of the sort.
template <MapKind kKind>
__device__ __forceinline__ uint32_t dropped_bin(const RowMapArgs& args) {
  return kKind == MapKind::kAnyIds ? kFastBinsForUnknownExperts : args.num_experts;
}

// Where a block's slots end: ranges of an earlier kernel may end within a tile.
template <MapKind kKind>
__device__ __forceinline__ uint32_t last_slot(const RowMapArgs& args) {
  return kKind == MapKind::kCounted ? args.end_slot() : args.num_slots;
}

// Bins and ranks of a tile. All threads meet inside; afterwards each knows its own
// warp's part only.
template <int kThreads, int kItems, MapKind kKind>
__device__ __forceinline__ void rank_tile(const RowMapArgs& args, const SortMemory& memory,
                                          uint32_t tile, uint32_t (&bins)[kItems]) {
  const int warp = threadIdx.x / 32;
  int64_t ids[kItems];
  load_ids<kItems>(args, tile + warp * 32 * kItems + threadIdx.x % 32, 32, last_slot<kKind>(args),
                   ids);
  memory.clear(kThreads);
  const uint32_t dropped = dropped_bin<kKind>(args);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    bins[i] = ids[i] >= 0 && ids[i] < dropped ? static_cast<uint32_t>(ids[i]) : dropped;
  }
  __syncthreads();
  uint16_t* counts = memory.warp_counts + warp * memory.bins;
  if (memory.warp_masks != nullptr) {
    rank_bins<true>(bins, counts, memory.warp_masks + warp * memory.bins, dropped);
  } else {
    rank_bins<false>(bins, counts, nullptr, dropped);
  }
  __syncthreads();
  sum_over_warps<kThreads>(memory);
}

}  // namespace gg::cuda
