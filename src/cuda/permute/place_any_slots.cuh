// The general second launch of the row map: any number of bins that one count
// each in shared memory has room for, warps in turn. The last bin takes every
// id from kMaxCountedId on where E is unknown; if those ids differ, their order
// is found by comparing them all: slow, right, and decided on the device.
#pragma once

#include <cub/block/block_scan.cuh>

#include "cuda/permute/ptx.cuh"
#include "cuda/permute/row_map.cuh"

namespace gg::cuda {

// One more than the largest bin that any range uses. All threads meet inside.
__device__ inline int find_bins_used(const RowMapArgs& args) {
  __shared__ int num_used;
  __syncthreads();
  if (threadIdx.x == 0) num_used = 0;
  __syncthreads();
  for (int range = threadIdx.x; range < static_cast<int>(gridDim.x); range += blockDim.x) {
    atomicMax(&num_used, args.facts[range].num_bins);
  }
  __syncthreads();
  return num_used;
}

// Whether the ids in the last bin are not all the same.
__device__ inline bool large_ids_differ(const RowMapArgs& args) {
  int64_t large_min = INT64_MAX;
  int64_t large_max = -1;
  for (unsigned range = 0; range < gridDim.x; ++range) {
    large_min = min(large_min, args.facts[range].large_min);
    large_max = max(large_max, args.facts[range].large_max);
  }
  return large_max > large_min;
}

// Rank of a slot among all slots of the last bin, ordered by (id, slot).
__device__ inline int rank_by_comparing(const RowMapArgs& args, uint32_t slot, int64_t id) {
  int rank = 0;
  for (uint32_t other = 0; other < args.num_slots; ++other) {
    const int64_t other_id = args.indices.load(other);
    if (other_id < kMaxCountedId) continue;
    rank += other_id < id || (other_id == id && other < slot);
  }
  return rank;
}

// next[bin] = row of this range's first slot of that bin. Returns the row of the
// last bin's first slot; block 0 writes the public counts.
template <typename Count>
__device__ inline int find_any_first_rows(const RowMapArgs& args, int* next, int num_used) {
  using Scan = cub::BlockScan<int, kMapThreads>;
  __shared__ typename Scan::TempStorage scan;
  __shared__ int first_large;
  int carry = 0;
  for (int first = 0; first < num_used; first += kMapThreads) {
    const int bin = first + static_cast<int>(threadIdx.x);
    int before = 0;  // of this bin, in the ranges before this one
    int total = 0;
#pragma unroll 8
    for (int range = 0; range < static_cast<int>(gridDim.x); ++range) {
      const bool is_written =
          bin < num_used && (args.num_experts > 0 || bin < kFastBinsForUnknownExperts ||
                             bin < args.facts[range].num_bins);
      if (!is_written) continue;
      const int count = static_cast<int>(args.count_of<Count>(range, bin));
      total += count;
      if (range < static_cast<int>(blockIdx.x)) before += count;
    }
    int row;
    int sum;
    Scan(scan).ExclusiveSum(args.padded(total), row, sum);
    row += carry;
    carry += sum;
    if (bin < num_used) next[bin] = row + before;
    if (bin == num_used - 1) first_large = row;
    if (blockIdx.x == 0 && bin < args.num_experts) args.write_group(bin, row, total);
    __syncthreads();
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *args.num_kept = carry;
  args.mark_empty_rows(carry);
  return first_large;
}

// By a whole block of kMapThreads; `next` has room for num_used ints.
template <typename Count>
__device__ inline void place_any_slots(const RowMapArgs& args, int* next, int num_used) {
  const bool compare = args.num_experts == 0 && num_used > kMaxCountedId && large_ids_differ(args);
  const int first_large = find_any_first_rows<Count>(args, next, num_used);

  constexpr int kWarps = kMapThreads / 32;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const uint32_t end = args.end_slot();
  for (uint32_t tile = args.first_slot(); tile < end; tile += kMapThreads) {
    const uint32_t slot = tile + threadIdx.x;
    const bool is_slot = slot < end;
    const int64_t id = is_slot ? args.indices.load(slot) : -1;
    const int bin = args.bin_of(id);
    const unsigned equals = __match_any_sync(~0u, bin);
    const int leader = __ffs(static_cast<int>(equals)) - 1;
    int first_row = 0;
    for (int turn = 0; turn < kWarps; ++turn) {  // warps in slot order: the sort is stable
      if (turn == warp && lane == leader && bin >= 0) {
        first_row = next[bin];
        next[bin] = first_row + __popc(equals);
      }
      __syncthreads();
    }
    int64_t row = __shfl_sync(~0u, first_row, leader) + __popc(equals & ((1u << lane) - 1));
    if (bin < 0) row = -1;
    if (compare && bin == kMaxCountedId) row = first_large + rank_by_comparing(args, slot, id);
    if (is_slot) args.place(slot, row);
  }
}

// For E known and too large for place_slots.
template <typename Count>
__global__ void __launch_bounds__(kMapThreads) place_slots_of_many_experts(const RowMapArgs args) {
  extern __shared__ int next[];  // [num_bins]
  ptx::let_next_kernel_start();
  ptx::wait_for_previous_kernel();
  place_any_slots<Count>(args, next, args.num_bins);
}

}  // namespace gg::cuda
