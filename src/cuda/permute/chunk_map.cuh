// Where the rows of chunks go that are put into another order. Called by
// sort_chunks.cu: find_chunks, one block, then map_chunk_rows, a thread for a row.
#pragma once

#include <cub/block/block_scan.cuh>

#include "cuda/permute/rows.cuh"

namespace gg::cuda {

inline constexpr int kChunkThreads = 512;

struct ChunkMapArgs {
  IntegerPointer split_sizes;   // [C]
  IntegerPointer sorted_index;  // [C]
  int num_chunks;
  int num_rows;
  int* starts;         // scratch [C]: first row of each chunk in the input
  int* target_starts;  // scratch [C]: in the output, or -1
  int* first_names;    // scratch [C]: which entry of sorted_index names the chunk first
  int* num_filled;     // scratch [1]: rows of the output that have a source
  int* row_id_map;     // [num_rows]
  int* row_sources;    // scratch [num_rows]: the map's inverse, -1 where there is none

  __device__ __forceinline__ int end_of_chunk(int chunk) const {
    return chunk + 1 < num_chunks ? starts[chunk + 1] : clamped_end();
  }
  // The last chunk's end: only it may leave rows of the input over.
  __device__ __forceinline__ int clamped_end() const {
    const int64_t start = starts[num_chunks - 1];
    const int64_t size = max(int64_t{0}, split_sizes.load(num_chunks - 1));
    return static_cast<int>(size < num_rows - start ? start + size : num_rows);
  }
};

// prefix[i] of all values of a block's loop over [0, count), each at most num_rows
// and in all too; calls write(i, prefix). Returns the sum.
template <typename Value, typename Write>
__device__ __forceinline__ int64_t scan_all(int count, const Value& value, const Write& write) {
  using Scan = cub::BlockScan<int64_t, kChunkThreads>;
  __shared__ typename Scan::TempStorage scan;
  int64_t carry = 0;
  for (int first = 0; first < count; first += kChunkThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    int64_t prefix;
    int64_t sum;
    Scan(scan).ExclusiveSum(i < count ? value(i) : int64_t{0}, prefix, sum);
    if (i < count) write(i, prefix + carry);
    carry += sum;
    __syncthreads();
  }
  return carry;
}

__global__ void __launch_bounds__(kChunkThreads) find_chunks(const ChunkMapArgs args) {
  ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  for (int c = threadIdx.x; c < args.num_chunks; c += kChunkThreads) {
    args.target_starts[c] = -1;
    args.first_names[c] = args.num_chunks;
  }
  const int64_t num_rows = args.num_rows;
  scan_all(
      args.num_chunks,
      [&](int c) { return min(max(args.split_sizes.load(c), int64_t{0}), num_rows); },
      [&](int c, int64_t start) { args.starts[c] = static_cast<int>(min(start, num_rows)); });
  __syncthreads();
  for (int i = threadIdx.x; i < args.num_chunks; i += kChunkThreads) {
    const int64_t chunk = args.sorted_index.load(i);
    if (chunk >= 0 && chunk < args.num_chunks) atomicMin(&args.first_names[chunk], i);
  }
  __syncthreads();
  const auto chunk_named = [&](int i) {  // first by this entry, or -1
    const int64_t chunk = args.sorted_index.load(i);
    const bool is_chunk = chunk >= 0 && chunk < args.num_chunks;
    return is_chunk && args.first_names[chunk] == i ? static_cast<int>(chunk) : -1;
  };
  const int64_t num_filled = scan_all(
      args.num_chunks,
      [&](int i) {
        const int chunk = chunk_named(i);
        return chunk < 0 ? int64_t{0} : int64_t{args.end_of_chunk(chunk)} - args.starts[chunk];
      },
      [&](int i, int64_t start) {
        const int chunk = chunk_named(i);
        if (chunk >= 0) args.target_starts[chunk] = static_cast<int>(start);
      });
  if (threadIdx.x == 0) *args.num_filled = static_cast<int>(num_filled);
}

__global__ void __launch_bounds__(kRowThreads) map_chunk_rows(const ChunkMapArgs args) {
  ptx::let_next_kernel_start();
  ptx::wait_for_previous_kernel();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (row >= args.num_rows) return;
  if (row >= *args.num_filled) args.row_sources[row] = -1;
  int low = -1;  // the last chunk that starts at or before the row
  int high = args.num_chunks;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    if (args.starts[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const bool is_named = low >= 0 && row < args.end_of_chunk(low) && args.target_starts[low] >= 0;
  const int64_t target = is_named ? args.target_starts[low] + (row - args.starts[low]) : -1;
  args.row_id_map[row] = static_cast<int>(target);
  if (target >= 0) args.row_sources[target] = static_cast<int>(row);
}

}  // namespace gg::cuda
