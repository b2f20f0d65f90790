// Row map: a stable counting sort of slots by expert, in two launches.
//
//   count_slots   each block counts the ids of its slots_per_block slots
//   place_slots   each block adds up the counts of the blocks before it, and of
//                 the smaller ids, and then hands out rows in slot order
//
// Bins are ids. The last bin takes every id from num_bins - 1 on, for callers
// that do not say how many experts there are; if those ids differ, their order
// is found by comparing them all: slow, right, and decided on the device.
#pragma once

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "cuda/common/number.cuh"

namespace gg::cuda {

inline constexpr int kSortThreads = 1024;

// What one block found, for all others.
struct BlockFacts {
  int num_bins;       // one more than the largest bin used
  int64_t large_min;  // smallest and largest id in the last bin
  int64_t large_max;
};

struct RowMapArgs {
  IntegerPointer indices;  // [T, topK]
  int num_tokens;
  int topk;
  int num_slots;
  int num_experts;  // 0: unknown
  int num_bins;
  int slots_per_block;
  int num_out;
  int* row_id_map;         // [topK, T]
  int* tokens_per_expert;  // [num_experts] or null
  int* offsets;            // [num_experts] or null
  int* counts;             // scratch [num_blocks, num_bins]
  BlockFacts* facts;       // scratch [num_blocks]
  int* num_kept;           // scratch [1]: rows that have a slot, before num_out cuts

  // Bin of an id, -1 where it is dropped.
  __device__ int bin_of(int64_t id) const {
    if (id < 0 || (num_experts > 0 && id >= num_experts)) return -1;
    return id < num_bins - 1 ? static_cast<int>(id) : num_bins - 1;
  }
  __device__ void place(int slot, int64_t row) const {
    const int token = slot / topk;
    row_id_map[static_cast<int64_t>(slot - token * topk) * num_tokens + token] =
        row >= 0 && row < num_out ? static_cast<int>(row) : -1;
  }
};

__global__ void __launch_bounds__(kSortThreads) count_slots(RowMapArgs args) {
  extern __shared__ int histogram[];  // [num_bins]
  using Reduce = cub::BlockReduce<int64_t, kSortThreads>;
  __shared__ typename Reduce::TempStorage reduce;
  __shared__ int num_used;
  for (int bin = threadIdx.x; bin < args.num_bins; bin += kSortThreads) histogram[bin] = 0;
  __syncthreads();

  const int64_t begin = static_cast<int64_t>(blockIdx.x) * args.slots_per_block;
  const int64_t end = min(begin + args.slots_per_block, static_cast<int64_t>(args.num_slots));
  int largest_bin = -1;
  int64_t large_min = INT64_MAX;
  int64_t large_max = -1;
  for (int64_t slot = begin + threadIdx.x; slot < end; slot += kSortThreads) {
    const int64_t id = args.indices.load(slot);
    const int bin = args.bin_of(id);
    if (bin < 0) continue;
    atomicAdd(&histogram[bin], 1);
    largest_bin = max(largest_bin, bin);
    if (bin == args.num_bins - 1) {
      large_min = min(large_min, id);
      large_max = max(large_max, id);
    }
  }
  const auto largest = [](int64_t a, int64_t b) { return a > b ? a : b; };
  const int64_t block_bin = Reduce(reduce).Reduce(largest_bin, largest);
  __syncthreads();
  const int64_t block_max = Reduce(reduce).Reduce(large_max, largest);
  __syncthreads();
  const int64_t block_min = -Reduce(reduce).Reduce(-large_min, largest);
  if (threadIdx.x == 0) {
    num_used = static_cast<int>(block_bin) + 1;
    args.facts[blockIdx.x] = {num_used, block_min, block_max};
  }
  __syncthreads();
  int* counts = args.counts + static_cast<int64_t>(blockIdx.x) * args.num_bins;
  for (int bin = threadIdx.x; bin < num_used; bin += kSortThreads) counts[bin] = histogram[bin];
}

// Rank of a slot among all slots of the last bin, ordered by (id, slot).
__device__ inline int rank_by_comparing(const RowMapArgs& args, int slot, int64_t id) {
  int rank = 0;
  for (int other = 0; other < args.num_slots; ++other) {
    const int64_t other_id = args.indices.load(other);
    if (args.bin_of(other_id) != args.num_bins - 1) continue;
    rank += other_id < id || (other_id == id && other < slot);
  }
  return rank;
}

// next[bin] = row of this block's first slot of that bin. Returns the row of the
// first slot of the last bin of all blocks; block 0 writes the public counts.
__device__ inline int find_first_rows(const RowMapArgs& args, int num_used, int* next) {
  using Scan = cub::BlockScan<int, kSortThreads>;
  __shared__ typename Scan::TempStorage scan;
  __shared__ int first_large;
  const int num_public = args.num_experts > 0 ? args.num_experts : num_used;
  int carry = 0;
  for (int first = 0; first < num_public; first += kSortThreads) {
    const int bin = first + static_cast<int>(threadIdx.x);
    int before = 0;  // of this bin, in the blocks before this one
    int total = 0;
    for (int block = 0; bin < num_used && block < static_cast<int>(gridDim.x); ++block) {
      if (bin >= args.facts[block].num_bins) continue;
      const int count = args.counts[static_cast<int64_t>(block) * args.num_bins + bin];
      total += count;
      if (block < static_cast<int>(blockIdx.x)) before += count;
    }
    int row;
    int chunk_total;
    Scan(scan).ExclusiveSum(total, row, chunk_total);
    row += carry;
    carry += chunk_total;
    if (bin < num_used) next[bin] = row + before;
    if (bin == args.num_bins - 1) first_large = row;
    if (blockIdx.x == 0 && args.tokens_per_expert != nullptr && bin < args.num_experts) {
      args.tokens_per_expert[bin] = total;
      args.offsets[bin] = row + total;
    }
    __syncthreads();
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *args.num_kept = carry;
  return first_large;
}

__global__ void __launch_bounds__(kSortThreads) place_slots(RowMapArgs args) {
  extern __shared__ int next[];  // [num_bins]
  __shared__ int num_used;
  __shared__ bool large_ids_differ;
  if (threadIdx.x == 0) {
    int used = 0;
    int64_t large_min = INT64_MAX;
    int64_t large_max = -1;
    for (unsigned block = 0; block < gridDim.x; ++block) {
      const BlockFacts facts = args.facts[block];
      used = max(used, facts.num_bins);
      large_min = min(large_min, facts.large_min);
      large_max = max(large_max, facts.large_max);
    }
    num_used = used;
    large_ids_differ = large_max > large_min;
  }
  __syncthreads();
  const int first_large = find_first_rows(args, num_used, next);

  constexpr int kWarps = kSortThreads / 32;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * args.slots_per_block;
  const int64_t end = min(begin + args.slots_per_block, static_cast<int64_t>(args.num_slots));
  for (int64_t tile = begin; tile < end; tile += kSortThreads) {
    const bool is_slot = tile + threadIdx.x < end;
    const int slot = static_cast<int>(tile + threadIdx.x);
    const int64_t id = is_slot ? args.indices.load(slot) : -1;
    const int bin = args.bin_of(id);
    const unsigned same_bin = __match_any_sync(0xffffffffu, bin);
    const int leader = __ffs(same_bin) - 1;
    int first_row = 0;
    for (int turn = 0; turn < kWarps; ++turn) {  // warps in slot order: the sort is stable
      if (turn == warp && lane == leader && bin >= 0) {
        first_row = next[bin];
        next[bin] = first_row + __popc(same_bin);
      }
      __syncthreads();
    }
    int64_t row =
        __shfl_sync(0xffffffffu, first_row, leader) + __popc(same_bin & ((1u << lane) - 1));
    if (bin < 0) row = -1;
    if (bin == args.num_bins - 1 && large_ids_differ) {
      row = first_large + rank_by_comparing(args, slot, id);
    }
    if (is_slot) args.place(slot, row);
  }
}

}  // namespace gg::cuda
