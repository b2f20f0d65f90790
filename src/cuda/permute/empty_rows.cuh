// Zeros for the rows of a gradient that no map entry names. A small kernel in
// front writes for every named row the entry that names it; a row whose entry,
// looked up, does not name it is empty. So the scratch needs no clearing: what
// lay in it before proves itself wrong, or right (Briggs and Torczon 1993).
#pragma once

#include "cuda/permute/rows.cuh"

namespace gg::cuda {

inline constexpr int kMarkEntriesPerBlock = 4 * kRowThreads;

struct EmptyRowsArgs {
  char* rows;          // [num_rows, h]
  IntegerPointer map;  // [num_entries]
  int* entry_of_row;   // scratch [num_rows]
  int64_t num_entries;
  int64_t num_rows;
  int64_t row_bytes;
};

__global__ void __launch_bounds__(kRowThreads) mark_rows(const EmptyRowsArgs args) {
  ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kMarkEntriesPerBlock + threadIdx.x;
  int rows[4];
  const int64_t left = args.num_entries - first;
  const int count = left <= 0 ? 0 : static_cast<int>(min((left - 1) / kRowThreads + 1, int64_t{4}));
  load_rows<4>(args.map, first, kRowThreads, count, args.num_rows, rows);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (rows[j] >= 0) args.entry_of_row[rows[j]] = static_cast<int>(first + j * kRowThreads);
  }
}

inline constexpr int kClearRowsPerThread = 2;
inline constexpr int kClearRowsPerBlock = kClearRowsPerThread * kRowThreads;

// By a whole block, for the `block`-th kClearRowsPerBlock rows.
__device__ inline void clear_empty_rows(const EmptyRowsArgs& args, int64_t block) {
  __shared__ int empty[kClearRowsPerBlock];
  __shared__ int num_empty;
  if (threadIdx.x == 0) num_empty = 0;
  __syncthreads();
  ptx::wait_for_previous_kernel();
  const int64_t first = block * kClearRowsPerBlock + threadIdx.x;
  int64_t entries[kClearRowsPerThread];
#pragma unroll
  for (int j = 0; j < kClearRowsPerThread; ++j) {
    const int64_t row = first + j * kRowThreads;
    entries[j] = row < args.num_rows ? args.entry_of_row[row] : -1;
  }
#pragma unroll
  for (int j = 0; j < kClearRowsPerThread; ++j) {
    const int64_t row = first + j * kRowThreads;
    if (row >= args.num_rows) continue;
    const bool is_entry = entries[j] >= 0 && entries[j] < args.num_entries;
    if (is_entry && args.map.load(entries[j]) == row) continue;
    empty[atomicAdd(&num_empty, 1)] = static_cast<int>(row);
  }
  __syncthreads();
  for (int i = threadIdx.x / 32; i < num_empty; i += kRowThreads / 32) {
    clear_row(args.rows + empty[i] * args.row_bytes, args.row_bytes, threadIdx.x % 32, 32);
  }
}

}  // namespace gg::cuda
