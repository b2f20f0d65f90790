// Zeros for the rows of a gradient that no map entry names; some blocks of its kernel see to
// that. Of short maps each of them reads the whole map and notes which of its rows are named:
// no launch but the kernel's own (H200, 2026-11-29: 0.5 to 3.4 us less). Of long ones it would
// read too much, and where rows are only copied their kernel has no such blocks: a small kernel in
// front writes for every named row the entry that names it; a row whose entry, looked up, does not
// name it is empty. So the scratch needs no clearing: what lay in it before proves itself wrong, or
// right (Briggs and Torczon 1993).
#pragma once

#include "base/math.h"
#include "cuda/permute/rows.cuh"

namespace gg::cuda {

inline constexpr int kMarkEntriesPerBlock = 4 * kRowThreads;

struct EmptyRowsArgs {
  char* rows;          // [num_rows, h]
  IntegerPointer map;  // [num_entries]
  int* entry_of_row;   // scratch [num_rows], or null: no marks
  int64_t num_entries;
  int64_t num_rows;
  int64_t row_bytes;
};

// Read by a block for every 1024 rows: 16 MB in all at the limit, from L2. At twice as many
// entries both ways take as long (H200, 2026-11-29, 16384x8x2048: 307 and 306 us).
inline bool is_long_map(int64_t num_entries) { return num_entries > (1 << 16); }

// ---- short maps ---------------------------------------------------------------------------------

inline constexpr int kNamedWords = 32;  // of shared memory: a bit for each row
inline constexpr int kUnnamedRowsPerBlock = 32 * kNamedWords;
inline constexpr int kEntriesAtOnce = 8;

// By a whole block, for the `block`-th kUnnamedRowsPerBlock rows.
__device__ inline void clear_unnamed_rows(const EmptyRowsArgs& args, int64_t block) {
  __shared__ uint32_t named[kNamedWords];
  for (int w = threadIdx.x; w < kNamedWords; w += kRowThreads) named[w] = 0;
  __syncthreads();
  const int64_t first_row = block * kUnnamedRowsPerBlock;
  for (int64_t i = threadIdx.x; i < args.num_entries; i += kEntriesAtOnce * kRowThreads) {
    const int64_t left = (args.num_entries - i - 1) / kRowThreads + 1;
    int rows[kEntriesAtOnce];
    load_rows<kEntriesAtOnce>(args.map, i, kRowThreads,
                              static_cast<int>(min(left, int64_t{kEntriesAtOnce})), args.num_rows,
                              rows);
#pragma unroll
    for (int j = 0; j < kEntriesAtOnce; ++j) {
      const int64_t row = rows[j] - first_row;
      if (row >= 0 && row < kUnnamedRowsPerBlock) atomicOr(&named[row / 32], 1u << (row % 32));
    }
  }
  __syncthreads();
  for (int w = threadIdx.x / 32; w < kNamedWords; w += kRowThreads / 32) {
    const int64_t row = first_row + w * 32;
    if (row >= args.num_rows) return;
    for (uint32_t unnamed = ~named[w]; unnamed != 0; unnamed &= unnamed - 1) {
      const int64_t empty = row + __ffs(unnamed) - 1;
      if (empty >= args.num_rows) break;
      clear_row(args.rows + empty * args.row_bytes, args.row_bytes, threadIdx.x % 32, 32);
    }
  }
}

// ---- marks --------------------------------------------------------------------------------------

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

inline constexpr int kClearRowsPerThread = 4;
inline constexpr int kClearRowsPerBlock = kClearRowsPerThread * kRowThreads;

// By a whole block, for the `block`-th kClearRowsPerBlock rows, after mark_rows.
__device__ inline void clear_unmarked_rows(const EmptyRowsArgs& args, int64_t block) {
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

// ---- both ---------------------------------------------------------------------------------------

inline int64_t num_clear_blocks(const EmptyRowsArgs& args) {
  const int rows = args.entry_of_row != nullptr ? kClearRowsPerBlock : kUnnamedRowsPerBlock;
  return base::ceil_div(args.num_rows, rows);
}

__device__ inline void clear_empty_rows(const EmptyRowsArgs& args, int64_t block) {
  if (args.entry_of_row == nullptr) {
    clear_unnamed_rows(args, block);
  } else {
    clear_unmarked_rows(args, block);
  }
}

// A kernel of its own, after mark_rows.
__global__ void __launch_bounds__(kRowThreads) clear_rows(const EmptyRowsArgs args) {
  ptx::let_next_kernel_start();
  clear_unmarked_rows(args, blockIdx.x);
}

}  // namespace gg::cuda
