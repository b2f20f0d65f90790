// One output tile by plain fused multiply-adds: load a slice of both operands to
// shared memory, multiply, repeat. Any element type, strides, alignment and
// size; no tensor cores. The meaning of a tile, and the second opinion that the
// fast paths are compared with. Used by m_grouped.cuh and k_grouped.cuh.
#pragma once

#include "base/math.h"
#include "cuda/common/number.cuh"

namespace gg::cuda::portable {

inline constexpr int kTile = 64;   // rows and columns of an output tile
inline constexpr int kSlice = 16;  // reduction steps held in shared memory
inline constexpr int kThreads = 256;
inline constexpr int kPerThread = 4;  // each thread owns 4 x 4 outputs
static_assert(kTile * kTile == kThreads * kPerThread * kPerThread);

// A matrix seen as [outer, reduction]: outer runs over the output's rows (or
// columns). Elements outside [outer_begin, outer_end) count as zeros.
struct Operand {
  const void* data;
  int64_t outer_stride;
  int64_t reduction_stride;
  int64_t outer_begin;
  int64_t outer_end;
};

struct Slices {
  // One column more than a tile: threads that walk the reduction dimension
  // would otherwise write into one bank.
  float a[kSlice][kTile + 1];
  float b[kSlice][kTile + 1];
};

// slice[r][o] = operand[outer_begin + o, r_begin + r]. Neighbouring threads take
// neighbouring memory, whichever dimension that is.
template <typename T>
__device__ __forceinline__ void load_slice(const Operand& operand, int64_t r_begin, int64_t r_end,
                                           float (&slice)[kSlice][kTile + 1]) {
  const bool reduction_is_inner = operand.reduction_stride == 1;
#pragma unroll
  for (int i = 0; i < kTile * kSlice / kThreads; ++i) {
    const int element = threadIdx.x + i * kThreads;
    const int r = reduction_is_inner ? element % kSlice : element / kTile;
    const int o = reduction_is_inner ? element / kSlice : element % kTile;
    const int64_t outer = operand.outer_begin + o;
    float value = 0.0f;
    if (outer < operand.outer_end && r_begin + r < r_end) {
      const int64_t offset =
          outer * operand.outer_stride + (r_begin + r) * operand.reduction_stride;
      value = to_float(static_cast<const T*>(operand.data)[offset]);
    }
    slice[r][o] = value;
  }
}

// Output (row, column) of the tile that sums[i][j] of this thread belongs to.
__device__ __forceinline__ int tile_row(int i) { return threadIdx.x / 16 + i * 16; }
__device__ __forceinline__ int tile_column(int j) { return threadIdx.x % 16 + j * 16; }

__device__ __forceinline__ void multiply_slices(const Slices& slices,
                                                float (&sums)[kPerThread][kPerThread]) {
#pragma unroll
  for (int r = 0; r < kSlice; ++r) {
    float a[kPerThread];
    float b[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      a[i] = slices.a[r][tile_row(i)];
      b[i] = slices.b[r][tile_column(i)];
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
  }
}

// sums += a b over reduction steps [r_begin, r_end).
template <typename T>
__device__ void multiply_tile(const Operand& a, const Operand& b, int64_t r_begin, int64_t r_end,
                              float (&sums)[kPerThread][kPerThread]) {
  __shared__ Slices slices;
  for (int64_t r = r_begin; r < r_end; r += kSlice) {
    load_slice<T>(a, r, r_end, slices.a);
    load_slice<T>(b, r, r_end, slices.b);
    __syncthreads();
    multiply_slices(slices, sums);
    __syncthreads();
  }
}

// Writes the tile at (row_begin, column_begin), clipped at the ends; adds to
// what is there when accumulating, rounding once.
template <typename Out>
__device__ void store_tile(const float (&sums)[kPerThread][kPerThread], Out* out,
                           int64_t row_stride, int64_t column_stride, int64_t row_begin,
                           int64_t row_end, int64_t column_begin, int64_t column_end,
                           bool accumulate) {
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t row = row_begin + tile_row(i);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t column = column_begin + tile_column(j);
      if (row >= row_end || column >= column_end) continue;
      Out& target = out[row * row_stride + column * column_stride];
      target = from_float<Out>(accumulate ? to_float(target) + sums[i][j] : sums[i][j]);
    }
  }
}

}  // namespace gg::cuda::portable
