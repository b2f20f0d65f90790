// First launch of the row map: how many slots of each bin every block's range has.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "cuda/permute/ptx.cuh"
#include "cuda/permute/row_map.cuh"

namespace gg::cuda {

// Smallest and largest id in the last bin, over the block; for the first thread.
__device__ inline void find_large_ids(BlockFacts& facts) {
  using Reduce = cub::BlockReduce<int64_t, kMapThreads>;
  __shared__ typename Reduce::TempStorage storage;
  const auto larger = [](int64_t a, int64_t b) { return a > b ? a : b; };
  facts.large_max = Reduce(storage).Reduce(facts.large_max, larger);
  __syncthreads();
  facts.large_min = -Reduce(storage).Reduce(-facts.large_min, larger);
}

template <int kItems, typename Count>
__global__ void __launch_bounds__(kMapThreads) count_slots(const RowMapArgs args) {
  extern __shared__ int histogram[];  // [num_bins]
  __shared__ int num_used;
  constexpr uint32_t kStep = kMapThreads * kItems;
  ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  const uint32_t end = args.end_slot();
  uint32_t first = args.first_slot() + threadIdx.x;
  int64_t ids[kItems];
  load_ids<kItems>(args, first, kMapThreads, end, ids);
  for (int bin = threadIdx.x; bin < args.num_bins; bin += kMapThreads) histogram[bin] = 0;
  if (threadIdx.x == 0) num_used = 0;
  __syncthreads();

  int largest_bin = -1;
  BlockFacts facts{0, INT64_MAX, -1};
  while (true) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int bin = args.bin_of(ids[i]);
      if (bin < 0) continue;
      atomicAdd(&histogram[bin], 1);
      largest_bin = max(largest_bin, bin);
      if (args.num_experts == 0 && bin == kMaxCountedId) {
        facts.large_min = min(facts.large_min, ids[i]);
        facts.large_max = max(facts.large_max, ids[i]);
      }
    }
    first += kStep;
    if (first >= end) break;
    load_ids<kItems>(args, first, kMapThreads, end, ids);
  }

  int num_columns = args.num_bins;
  if (args.num_experts == 0) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      largest_bin = max(largest_bin, __shfl_xor_sync(~0u, largest_bin, step));
    }
    if (threadIdx.x % 32 == 0) atomicMax(&num_used, largest_bin + 1);
    if (__syncthreads_or(facts.large_max >= 0) != 0) find_large_ids(facts);
    facts.num_bins = num_used;
    if (threadIdx.x == 0) args.facts[blockIdx.x] = facts;
    // Readers look at the facts before they read a column from these on.
    num_columns = max(facts.num_bins, kFastBinsForUnknownExperts);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < num_columns; bin += kMapThreads) {
    args.count_of<Count>(static_cast<int>(blockIdx.x), bin) = static_cast<Count>(histogram[bin]);
  }
}

}  // namespace gg::cuda
