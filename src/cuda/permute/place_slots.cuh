// Second launch of the row map, or the only one: ranks the slots of a range and
// hands out their rows, a tile of consecutive slots after the other.
//
//   rank_tile         a slot's rank among equals of its warp, and of earlier warps
//                     (rank_slots.cuh)
//   add_up_counts     equals in all ranges, and in earlier ranges
//   find_first_rows   row of the first slot of each bin
//   place_tile        row = first row of the bin + equals in earlier warps + rank
#pragma once

#include <cub/block/block_scan.cuh>

#include "cuda/common/warp_sums.cuh"
#include "cuda/permute/place_any_slots.cuh"
#include "cuda/permute/ptx.cuh"
#include "cuda/permute/rank_slots.cuh"

namespace gg::cuda {

// Sums of four neighbouring bins' counts over all ranges and over the earlier ones.
// 16-bit counts stay in pairs: as many as a thread adds have room (kMaxShortCount).
template <typename Count>
struct FourSums;
template <>
struct FourSums<uint16_t> {
  static constexpr int kRanges = 2;  // in a vector of 16 bytes
  uint32_t all[2] = {};
  uint32_t low[2] = {};

  __device__ __forceinline__ void add(const uint4& v, int range, int num_ranges, int this_range) {
    const bool has_second = range + 1 < num_ranges;  // else it was never written
    all[0] += v.x + (has_second ? v.z : 0);
    all[1] += v.y + (has_second ? v.w : 0);
    low[0] += (range < this_range ? v.x : 0) + (range + 1 < this_range ? v.z : 0);
    low[1] += (range < this_range ? v.y : 0) + (range + 1 < this_range ? v.w : 0);
  }
  __device__ __forceinline__ void add_to(int (&sums)[8]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums[j] += static_cast<int>(all[j / 2] >> 16 * (j % 2) & 0xffff);
      sums[4 + j] += static_cast<int>(low[j / 2] >> 16 * (j % 2) & 0xffff);
    }
  }
};
template <>
struct FourSums<uint32_t> {
  static constexpr int kRanges = 1;
  uint32_t all[4] = {};
  uint32_t low[4] = {};

  __device__ __forceinline__ void add(const uint4& v, int range, int, int this_range) {
    const uint32_t counts[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      all[j] += counts[j];
      low[j] += range < this_range ? counts[j] : 0;
    }
  }
  __device__ __forceinline__ void add_to(int (&sums)[8]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums[j] += static_cast<int>(all[j]);
      sums[4 + j] += static_cast<int>(low[j]);
    }
  }
};

// Sums the table of counts over all ranges and over the earlier ones. A warp takes two
// columns of four bins, its lanes the ranges, and all loads are in flight together:
// this is what the whole grid waits for.
template <int kThreads, typename Count, MapKind kKind>
__device__ __forceinline__ void add_up_counts(const RowMapArgs& args, const SortMemory& memory,
                                              int bins) {
  using Sums = FourSums<Count>;
  constexpr int kWarps = kThreads / 32;
  constexpr int kRanges = Sums::kRanges;
  constexpr int kSteps = 2;  // of 32 lanes each
  constexpr int kStep = 32 * kRanges;
  const int columns = bins / 4;
  constexpr bool kIsCounted = kKind == MapKind::kCounted;
  const int num_ranges = kIsCounted ? args.num_ranges : gridDim.x;
  const int this_range = static_cast<int>(blockIdx.x) * (kIsCounted ? args.ranges_per_block : 1);
  const int lane = threadIdx.x % 32;
  for (int column = threadIdx.x / 32; column < columns; column += 2 * kWarps) {
    int first_sums[8] = {};  // [all or earlier][bin]
    int second_sums[8] = {};
    for (int round = 0; round < num_ranges; round += kSteps * kStep) {
      const int first = round + lane * kRanges;
      uint4 loaded[2][kSteps];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint4* counts = args.column_of<Count>(min(column + c * kWarps, columns - 1), first);
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          loaded[c][s] = make_uint4(0, 0, 0, 0);
          if (first + s * kStep < num_ranges) loaded[c][s] = counts[s * 32];
        }
      }
      Sums first_column;
      Sums second_column;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int range = first + s * kStep;
        first_column.add(loaded[0][s], range, num_ranges, this_range);
        second_column.add(loaded[1][s], range, num_ranges, this_range);
      }
      first_column.add_to(first_sums);
      second_column.add_to(second_sums);
    }
    int sums[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) sums[i] = i < 8 ? first_sums[i] : second_sums[i - 8];
    const int sum = warp_sums<16>(sums);
    const int of = column + lane / 8 * kWarps;  // for lanes 0 to 15
    if (lane < 16 && of < columns) {
      (lane / 4 % 2 == 0 ? memory.total : memory.earlier)[4 * of + lane % 4] = sum;
    }
  }
}

// Returns where the last group ends; block 0 writes the public counts.
template <int kThreads, MapKind kKind>
__device__ __forceinline__ int find_first_rows(const RowMapArgs& args, const SortMemory& memory,
                                               int bins) {
  using Scan = cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ typename Scan::TempStorage scan;
  int carry = 0;
  for (int first = 0; first < bins; first += kThreads) {
    const int bin = first + static_cast<int>(threadIdx.x);
    int count = 0;
    int before = 0;
    if (bin < bins) {
      count = kKind == MapKind::kOneBlock ? memory.tile_counts[bin] : memory.total[bin];
      before = kKind == MapKind::kOneBlock ? 0 : memory.earlier[bin];
    }
    int row;
    int sum;
    Scan(scan).ExclusiveSum(args.padded(count), row, sum);
    row += carry;
    carry += sum;
    if (bin < bins) memory.next_row[bin] = row + before;
    if (blockIdx.x == 0 && bin < args.num_experts) args.write_group(bin, row, count);
    __syncthreads();
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *args.num_kept = carry;
  return carry;
}

template <int kItems, MapKind kKind>
__device__ __forceinline__ void place_tile(const RowMapArgs& args, const SortMemory& memory,
                                           uint32_t tile, const uint32_t (&bins)[kItems]) {
  const uint32_t dropped = dropped_bin<kKind>(args);
  const int warp = threadIdx.x / 32;
  const uint32_t begin = tile + warp * 32 * kItems;
  const uint32_t end = min(begin + 32 * kItems, last_slot<kKind>(args));
  const uint16_t* before = memory.warp_counts + warp * memory.bins;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const uint32_t slot = begin + i * 32 + threadIdx.x % 32;
    if (slot >= end) continue;
    const uint32_t bin = bins[i] >> 16;
    const int rank = static_cast<int>(bins[i] & 0xffff);
    const int row = bin != dropped ? memory.next_row[bin] + before[bin] + rank : -1;
    args.place(slot, row);
  }
}

// At most 64 registers, so that count_slots and what follows fit beside it.
template <int kThreads, int kItems, typename Count, MapKind kKind>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) place_slots(const RowMapArgs args) {
  extern __shared__ uint4 dynamic[];
  const int stride = kKind == MapKind::kAnyIds ? kFastBinsForUnknownExperts : args.num_bins;
  const SortMemory memory(dynamic, stride, kThreads / 32, args.has_masks);
  constexpr bool kWaitsFirst = kKind == MapKind::kOneBlock || kKind == MapKind::kCounted;
  if constexpr (kWaitsFirst) ptx::wait_for_previous_kernel();  // which may write the ids
  ptx::let_next_kernel_start();

  uint32_t tile = args.first_slot();
  uint32_t bins[kItems];  // of this thread's slots; once ranked bin << 16 | rank
  rank_tile<kThreads, kItems, kKind>(args, memory, tile, bins);

  int num_bins = stride;
  if constexpr (!kWaitsFirst) ptx::wait_for_previous_kernel();
  if constexpr (kKind == MapKind::kAnyIds) {
    const int num_used = find_bins_used(args);
    if (num_used > kFastBinsForUnknownExperts) {
      place_any_slots<Count>(args, reinterpret_cast<int*>(dynamic), num_used);
      return;
    }
    num_bins = padded_bins(num_used);
  }
  if constexpr (kKind != MapKind::kOneBlock) {
    add_up_counts<kThreads, Count, kKind>(args, memory, num_bins);
  }
  __syncthreads();
  const int num_kept = find_first_rows<kThreads, kKind>(args, memory, num_bins);
  args.mark_empty_rows(num_kept);

  const uint32_t end = args.end_slot();
  while (true) {
    place_tile<kItems, kKind>(args, memory, tile, bins);
    tile += kThreads * kItems;
    if (kKind == MapKind::kOneBlock || tile >= end) break;
    __syncthreads();  // the tile's counts and rows have been read
    for (int bin = threadIdx.x; bin < num_bins; bin += kThreads) {
      memory.next_row[bin] += memory.tile_counts[bin];
    }
    rank_tile<kThreads, kItems, kKind>(args, memory, tile, bins);
    __syncthreads();
  }
}

}  // namespace gg::cuda
