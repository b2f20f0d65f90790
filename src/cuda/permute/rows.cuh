// What the kernels that move rows share: how a block is cut into rows, bursts of
// reads, rows of zeros, and rows that do not begin or end at 16-byte boundaries.
#pragma once

#include <algorithm>

#include "base/math.h"
#include "cuda/common/number.cuh"
#include "cuda/permute/ptx.cuh"

namespace gg::cuda {

inline constexpr int kRowThreads = 256;
inline constexpr int kVectorBytes = 16;

// For __launch_bounds__: so many blocks on an SM, or as many as it has threads for.
constexpr int blocks_of_sm(int blocks, int threads = kRowThreads) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
  constexpr int kMostThreads = 1024;
#else
  constexpr int kMostThreads = 1536;
#endif
  return blocks * threads <= kMostThreads ? blocks : kMostThreads / threads;
}

// How a block is shared out: `width` threads side by side on one row, the rest on the next rows.
struct RowShape {
  int width;
  int threads = kRowThreads;
  __host__ __device__ int rows_per_block() const { return threads / width; }
};

// This thread's row, counted over the grid; `none` for threads left over.
__device__ __forceinline__ int64_t row_of_thread(RowShape shape, int64_t block, int64_t none) {
  const int row = static_cast<int>(threadIdx.x) / shape.width;
  return row < shape.rows_per_block() ? block * shape.rows_per_block() + row : none;
}

// Up to a whole block for a row, a power of two, so that short rows share a block.
inline RowShape row_shape(int64_t vectors_per_row, int least = 1, int threads = kRowThreads) {
  int width = least;
  while (width < threads && width < vectors_per_row) width *= 2;
  return {width, threads};
}

// Any width up to 256, a multiple of `step`: that of which the fewest threads idle, in up to four
// rounds of a row; of equals that of fewest rounds, but `least`, over which a block spreads what
// it does once. 66 vectors are 22 threads in three rounds, 11 rows a block.
inline RowShape even_row_shape(int64_t vectors_per_row, int64_t least = 1, int64_t step = 1) {
  RowShape best{kRowThreads};
  int64_t best_rounds = base::ceil_div(vectors_per_row, kRowThreads);
  for (int64_t rounds = 1; rounds <= 4; ++rounds) {
    const int64_t width = base::round_up(base::ceil_div(vectors_per_row, rounds), step);
    if (width < 1 || width > kRowThreads) continue;
    const RowShape shape{static_cast<int>(width)};
    // Rows a round: shape.rows_per_block() / rounds, compared as fractions.
    const int64_t gain = shape.rows_per_block() * best_rounds - best.rows_per_block() * rounds;
    if (gain > 0 || (gain == 0 && rounds <= least)) {
      best = shape;
      best_rounds = rounds;
    }
  }
  return best;
}

// DRAM turns round between reading and writing, and a read that trickles in among
// many writes makes it turn every time. So rows are read in bursts: the blocks of
// the first tokens of a burst together fetch the whole next burst into L2, and
// stores leave L2 first, the burst last. H200, 2026-11-22, of copy: 32768x8x4096 0.897,
// without bursts 0.859; 16384x2x4096 0.938, without 0.904, and 0.924 where the burst
// leaves like any read. Bursts of 1, 2, 3, 8 and 16 MB are worse, of 6 MB the same. The
// backward, which reads twice as much as it writes, loses by them: 0.78 against 0.89.
inline constexpr int64_t kBurstBytes = 4 << 20;

struct Burst {
  int tokens = 0;  // 0: reads come as they come
  int leaders = 0;
  int share = 0;  // tokens that a leader fetches

  explicit Burst(int64_t bytes_per_token, int64_t num_tokens) {
    constexpr int64_t kMaxLeaders = 64, kMinShare = 8;
    const int64_t wanted = bytes_per_token > 0 ? kBurstBytes / bytes_per_token : 0;
    if (wanted < kMinShare || wanted >= num_tokens) return;
    leaders = static_cast<int>(wanted / kMinShare < kMaxLeaders ? wanted / kMinShare : kMaxLeaders);
    share = static_cast<int>(wanted / leaders);
    tokens = leaders * share;
  }

  // The tokens that a token's block fetches: `share` from the returned one on, or
  // num_tokens for none.
  __device__ __forceinline__ int64_t first_to_fetch(int64_t token, int64_t num_tokens) const {
    if (tokens == 0) return num_tokens;
    const uint32_t within = static_cast<uint32_t>(token) % static_cast<uint32_t>(tokens);
    if (within >= static_cast<uint32_t>(leaders)) return num_tokens;
    return token - within + tokens + within * static_cast<uint32_t>(share);
  }
};

// The v-th vector of a row. (Rows have less than 2^31 of them: 32 GB.)
template <typename Byte>
__device__ __forceinline__ Byte* vector_at(Byte* row, int v) {
  return row + static_cast<int64_t>(v) * kVectorBytes;
}

// Zeros for one row of any alignment, by `width` threads of which this is `lane`.
__device__ __forceinline__ void clear_row(char* row, int64_t bytes, int lane, int width) {
  if ((reinterpret_cast<uintptr_t>(row) | bytes) % kVectorBytes == 0) {
    for (int64_t b = lane * kVectorBytes; b < bytes; b += width * kVectorBytes) {
      *reinterpret_cast<uint4*>(row + b) = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  const int64_t head = min(bytes, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(row) % 16));
  const int64_t tail = head + (bytes - head) / kVectorBytes * kVectorBytes;
  for (int64_t b = lane; b < head; b += width) row[b] = 0;
  for (int64_t b = head + lane * kVectorBytes; b < tail; b += width * kVectorBytes) {
    *reinterpret_cast<uint4*>(row + b) = make_uint4(0, 0, 0, 0);
  }
  for (int64_t b = tail + lane; b < bytes; b += width) row[b] = 0;
}

// kCount entries of a row map that stand `step` apart, all in flight together;
// -1 for those at and past `count`, and for entries that are no row.
template <int kCount>
__device__ __forceinline__ void load_rows(const IntegerPointer& map, int64_t first, int64_t step,
                                          int count, int64_t num_rows, int (&rows)[kCount]) {
  if (map.is_int64) {
    int64_t entries[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      entries[j] = j < count ? static_cast<const int64_t*>(map.data)[first + j * step] : -1;
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      rows[j] = entries[j] >= 0 && entries[j] < num_rows ? static_cast<int>(entries[j]) : -1;
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    rows[j] = j < count ? static_cast<const int32_t*>(map.data)[first + j * step] : -1;
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (rows[j] < 0 || rows[j] >= num_rows) rows[j] = -1;
  }
}

}  // namespace gg::cuda
