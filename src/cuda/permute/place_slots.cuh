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

#include "cuda/permute/place_any_slots.cuh"
#include "cuda/permute/ptx.cuh"
#include "cuda/permute/rank_slots.cuh"

namespace gg::cuda {

// Four neighbouring counts of the table.
__device__ __forceinline__ int4 load_four(const uint16_t* counts) {
  const uint2 v = *reinterpret_cast<const uint2*>(counts);
  return make_int4(v.x & 0xffff, v.x >> 16, v.y & 0xffff, v.y >> 16);
}
__device__ __forceinline__ int4 load_four(const uint32_t* counts) {
  return *reinterpret_cast<const int4*>(counts);
}

// Neighbouring lanes add to neighbouring banks: bin 4c + j stands at j * columns + c.
__device__ __forceinline__ int at(int bin, int columns) { return bin % 4 * columns + bin / 4; }

// Sums the columns of the table of counts, four bins a thread.
template <int kThreads, typename Count>
__device__ __forceinline__ void add_up_counts(const RowMapArgs& args, const SortMemory& memory,
                                              int bins) {
  const int num_ranges = gridDim.x;
  const int this_range = blockIdx.x;
  const int columns = bins / 4;
  const int width = min(columns, kThreads);
  const int groups = kThreads / width;
  const int group = threadIdx.x / width;
  for (int column = threadIdx.x % width; column < columns && group < groups; column += width) {
    int all[4] = {};
    int low[4] = {};
    const Count* counts = static_cast<const Count*>(args.counts) + 4 * column;
    // Eight loads in flight whatever the number: a remainder loop would wait for each.
    for (int first = group; first < num_ranges; first += 8 * groups) {
      int4 loaded[8];
#pragma unroll
      for (int u = 0; u < 8; ++u) {
        const int range = first + u * groups;
        loaded[u] = range < num_ranges
                        ? load_four(counts + static_cast<int64_t>(range) * args.count_pitch)
                        : make_int4(0, 0, 0, 0);
      }
#pragma unroll
      for (int u = 0; u < 8; ++u) {
        const int count[4] = {loaded[u].x, loaded[u].y, loaded[u].z, loaded[u].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          all[j] += count[j];
          low[j] += first + u * groups < this_range ? count[j] : 0;
        }
      }
    }
    for (int step = columns; step < 32;
         step *= 2) {  // lanes of one column, where a warp has several
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        all[j] += __shfl_xor_sync(~0u, all[j], step);
        low[j] += __shfl_xor_sync(~0u, low[j], step);
      }
    }
    if (static_cast<int>(threadIdx.x % 32) >= columns) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      atomicAdd(&memory.total[j * columns + column], all[j]);
      atomicAdd(&memory.earlier[j * columns + column], low[j]);
    }
  }
}

// Returns where the last group ends; block 0 writes the public counts.
template <int kThreads, MapKind kKind>
__device__ __forceinline__ int find_first_rows(const RowMapArgs& args, const SortMemory& memory,
                                               int bins) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage scan;
  int carry = 0;
  for (int first = 0; first < bins; first += kThreads) {
    const int bin = first + static_cast<int>(threadIdx.x);
    const int place = at(bin, bins / 4);
    int count = 0;
    int before = 0;
    if (bin < bins) {
      count = kKind == MapKind::kOneBlock ? memory.tile_counts[bin] : memory.total[place];
      before = kKind == MapKind::kOneBlock ? 0 : memory.earlier[place];
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

// The map is k-major and slots are token-major: a warp turns its part in shared
// memory and writes it in runs of tokens.
__device__ __forceinline__ void write_staged_map(const RowMapArgs& args, const int* staged,
                                                 uint32_t begin, uint32_t end) {
  if (begin >= end) return;
  const uint32_t topk = args.topk.divisor;
  const uint32_t first_token = args.topk.quotient(begin);
  const uint32_t num_tokens = args.topk.quotient(end - 1) - first_token + 1;
  for (uint32_t k = 0; k < topk; ++k) {
    int* map = args.row_id_map + static_cast<int64_t>(k) * args.num_tokens + first_token;
    for (uint32_t t = threadIdx.x % 32; t < num_tokens; t += 32) {
      const uint32_t slot = (first_token + t) * topk + k;
      if (slot >= begin && slot < end) map[t] = staged[k * args.map_pitch + t];
    }
  }
}

template <int kItems>
__device__ __forceinline__ void place_tile(const RowMapArgs& args, const SortMemory& memory,
                                           uint32_t tile, uint32_t limit,
                                           const uint32_t (&bins)[kItems]) {
  const int warp = threadIdx.x / 32;
  const uint32_t begin = tile + warp * 32 * kItems;
  const uint32_t end = min(begin + 32 * kItems, args.num_slots);
  const uint16_t* before = memory.warp_counts + warp * memory.bins;
  int* staged = memory.staged + warp * args.topk.divisor * args.map_pitch;
  const uint32_t first_token = args.topk.quotient(begin);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const uint32_t slot = begin + i * 32 + threadIdx.x % 32;
    if (slot >= end) continue;
    const uint32_t bin = bins[i] >> 16;
    const int rank = static_cast<int>(bins[i] & 0xffff);
    const int row = bin < limit ? memory.next_row[bin] + before[bin] + rank : -1;
    if (args.map_pitch == 0) {
      args.place(slot, row);
      continue;
    }
    const uint32_t token = args.topk.quotient(slot);
    const uint32_t k = slot - token * args.topk.divisor;
    const bool kept = row >= 0 && row < args.num_out;
    staged[k * args.map_pitch + (token - first_token)] = kept ? row : -1;
    if (kept && args.slot_of_row != nullptr) args.slot_of_row[row] = static_cast<int>(slot);
  }
  if (args.map_pitch == 0) return;
  __syncwarp();
  write_staged_map(args, staged, begin, end);
  __syncwarp();
}

// At most 64 registers, so that count_slots and what follows fit beside it.
template <int kThreads, int kItems, typename Count, MapKind kKind>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) place_slots(const RowMapArgs args) {
  extern __shared__ uint4 dynamic[];
  __shared__ int largest_bin;
  const int stride = kKind == MapKind::kAnyIds ? kFastBinsForUnknownExperts : args.num_bins;
  const SortMemory memory(dynamic, stride, kThreads / 32);
  if constexpr (kKind == MapKind::kOneBlock) ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  for (int i = threadIdx.x; i < 2 * stride; i += kThreads) memory.total[i] = 0;  // earlier too
  if constexpr (kKind == MapKind::kAnyIds) {
    if (threadIdx.x == 0) largest_bin = -1;
    __syncthreads();
  }

  uint32_t tile = args.first_slot();
  uint32_t bins[kItems];  // of this thread's slots; once ranked bin << 16 | rank
  uint32_t limit = rank_tile<kThreads, kItems, kKind>(args, memory, tile, &largest_bin, bins);

  int num_bins = stride;
  if constexpr (kKind != MapKind::kOneBlock) ptx::wait_for_previous_kernel();
  if constexpr (kKind == MapKind::kAnyIds) {
    const int num_used = find_bins_used(args);
    if (num_used > kFastBinsForUnknownExperts) {
      place_any_slots<Count>(args, reinterpret_cast<int*>(dynamic), num_used);
      return;
    }
    num_bins = padded_bins(num_used);
  }
  if constexpr (kKind != MapKind::kOneBlock) {
    add_up_counts<kThreads, Count>(args, memory, num_bins);
  }
  __syncthreads();
  const int num_kept = find_first_rows<kThreads, kKind>(args, memory, num_bins);
  args.mark_empty_rows(num_kept);

  const uint32_t end = args.end_slot();
  while (true) {
    place_tile<kItems>(args, memory, tile, limit, bins);
    tile += kThreads * kItems;
    if (kKind == MapKind::kOneBlock || tile >= end) break;
    __syncthreads();  // the tile's counts and rows have been read
    for (int bin = threadIdx.x; bin < num_bins; bin += kThreads) {
      memory.next_row[bin] += memory.tile_counts[bin];
    }
    limit = rank_tile<kThreads, kItems, kKind>(args, memory, tile, &largest_bin, bins);
    __syncthreads();
  }
}

}  // namespace gg::cuda
