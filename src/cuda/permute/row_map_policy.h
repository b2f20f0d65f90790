// How a row map is sorted: pure host code, so that tests can ask without a GPU.
// Kernels: row_map.cuh; start reading there.
#pragma once

#include "grouped_gemm/permute.h"

namespace gg::cuda {

// Ids below this are counted where E is unknown; larger ones share the last bin.
inline constexpr int kMaxCountedId = 4096;
// Where E is unknown and all ids are below this, the fast sort runs.
inline constexpr int kFastBinsForUnknownExperts = 512;

inline constexpr int kMapThreads = 512;
inline constexpr int kOneBlockThreads = 1024;
inline constexpr int kOneBlockItems = 4;

// Largest count of a range that is exchanged in 16 bits: a thread adds four of them.
inline constexpr int64_t kMaxShortCount = UINT16_MAX / 4;

// `experts` rounded up so that a row of counts splits evenly among a warp's lanes.
#ifdef __CUDACC__
__host__ __device__
#endif
    constexpr int padded_bins(int experts) {
  if (experts > 128) return (experts + 127) / 128 * 128;
  int bins = 8;
  while (bins < experts) bins *= 2;
  return bins;
}

// Shared memory of the fast sort: three ints a bin, 16-bit counts for each warp and for
// the tile, and for each warp a mask of lanes where slots are ranked by masks.
constexpr int64_t fast_sort_bytes(int64_t bins, int num_threads, bool has_masks) {
  const int64_t of_warp = sizeof(uint16_t) + (has_masks ? sizeof(uint32_t) : 0);
  return bins * (3 * int64_t{sizeof(int)} + int64_t{sizeof(uint16_t)} + num_threads / 32 * of_warp);
}

// Fills the plan's fields about the map; throws Error for too many experts.
void select_row_map(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits);

// Whether a map of this plan gains from slots that the kernel in front has counted: it
// would count them in a launch of its own, for a sort that exchanges 16-bit counts.
bool can_take_counts(const PermutePlan& plan, int64_t slots_per_range);

// Leaves out that launch: `num_ranges` ranges of so many consecutive slots are counted.
void take_counts(PermutePlan& plan, int num_ranges, int64_t slots_per_range);

}  // namespace gg::cuda
