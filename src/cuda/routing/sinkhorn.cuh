// sinkhorn on CUDA: one cooperative kernel, so that the stop test stays on the
// device. Row maxima m are subtracted as on the CPU: C' = exp(cost - m), and
// d0' = exp(m) d0 = 1 / (T (C' d1 + eps exp(-m))).
//
// Every sum has a fixed order: over columns within a warp; over rows in chunks,
// and then over chunks: results repeat bit for bit.
#pragma once

#include <cooperative_groups.h>

#include "cuda/common/number.cuh"

namespace gg::cuda {

inline constexpr int kSinkhornWarps = 8;
inline constexpr int kSinkhornThreads = kSinkhornWarps * 32;
inline constexpr float kSinkhornEpsilon = 1e-8f;

struct SinkhornArgs {
  const void* cost;  // [T, E]
  void* output;      // [T, E]
  int num_rows;      // T
  int num_columns;   // E
  int num_chunks;
  float tolerance;
  int max_iterations;
  int* iterations;  // or null
  float* error;     // or null
  float* row_max;   // scratch [T]
  float* d0;        // scratch [T]
  float* d1;        // scratch [E]
  float* change;    // scratch [E]: |change of d1|
  float* partial;   // scratch [num_chunks, E]: column sums
};

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

// C' of one element; a row of -inf logits takes part in nothing.
__device__ __forceinline__ float scaled(float logit, float row_max) {
  return row_max == -INFINITY ? 0.0f : expf(logit - row_max);
}

template <typename T>
struct SinkhornStages {
  const SinkhornArgs& args;
  const T* cost = static_cast<const T*>(args.cost);
  int lane = threadIdx.x % 32;
  int warp = threadIdx.x / 32;
  int first_row = blockIdx.x * kSinkhornWarps + warp;  // a warp takes a row at a time
  int row_step = gridDim.x * kSinkhornWarps;

  __device__ const T* row(int t) const { return cost + static_cast<int64_t>(t) * args.num_columns; }

  __device__ void start() const {
    for (int t = first_row; t < args.num_rows; t += row_step) {
      float largest = -INFINITY;
      for (int e = lane; e < args.num_columns; e += 32) {
        largest = fmaxf(largest, to_float(row(t)[e]));
      }
      largest = warp_max(largest);
      if (lane == 0) args.row_max[t] = largest;
    }
    for (int e = blockIdx.x * kSinkhornThreads + threadIdx.x; e < args.num_columns;
         e += gridDim.x * kSinkhornThreads) {
      args.d1[e] = 1.0f;
    }
  }

  __device__ void update_rows() const {
    for (int t = first_row; t < args.num_rows; t += row_step) {
      const float largest = args.row_max[t];
      float sum = 0.0f;
      for (int e = lane; e < args.num_columns; e += 32) {
        sum += scaled(to_float(row(t)[e]), largest) * args.d1[e];
      }
      sum = warp_sum(sum) + kSinkhornEpsilon * expf(-largest);
      if (lane == 0) args.d0[t] = 1.0f / (static_cast<float>(args.num_rows) * sum);
    }
  }

  // partial[chunk, e]: a block takes 32 columns of a chunk, its warps rows in turn.
  __device__ void sum_columns() const {
    __shared__ float sums[kSinkhornWarps][32];
    const int num_tiles = (args.num_columns + 31) / 32;
    const int chunk_rows = (args.num_rows + args.num_chunks - 1) / args.num_chunks;
    for (int item = blockIdx.x; item < args.num_chunks * num_tiles; item += gridDim.x) {
      const int chunk = item / num_tiles;
      const int e = item % num_tiles * 32 + lane;
      const int end = min((chunk + 1) * chunk_rows, args.num_rows);
      float sum = 0.0f;
      for (int t = chunk * chunk_rows + warp; t < end && e < args.num_columns;
           t += kSinkhornWarps) {
        sum += scaled(to_float(row(t)[e]), args.row_max[t]) * args.d0[t];
      }
      sums[warp][lane] = sum;
      __syncthreads();
      if (warp == 0 && e < args.num_columns) {
        float total = 0.0f;
        for (int w = 0; w < kSinkhornWarps; ++w) total += sums[w][lane];
        args.partial[static_cast<int64_t>(chunk) * args.num_columns + e] = total;
      }
      __syncthreads();
    }
  }

  __device__ void update_columns() const {
    for (int e = blockIdx.x * kSinkhornThreads + threadIdx.x; e < args.num_columns;
         e += gridDim.x * kSinkhornThreads) {
      float sum = 0.0f;
      for (int chunk = 0; chunk < args.num_chunks; ++chunk) {
        sum += args.partial[static_cast<int64_t>(chunk) * args.num_columns + e];
      }
      const float updated =
          1.0f / (static_cast<float>(args.num_columns) * (sum + kSinkhornEpsilon));
      args.change[e] = fabsf(updated - args.d1[e]);
      args.d1[e] = updated;
    }
  }

  // The same value in every thread of the grid.
  __device__ float mean_change() const {
    float sum = 0.0f;
    for (int e = lane; e < args.num_columns; e += 32) sum += args.change[e];
    return warp_sum(sum) / static_cast<float>(args.num_columns);
  }

  __device__ void write_output() const {
    for (int t = first_row; t < args.num_rows; t += row_step) {
      T* target = static_cast<T*>(args.output) + static_cast<int64_t>(t) * args.num_columns;
      for (int e = lane; e < args.num_columns; e += 32) {
        const float value = scaled(to_float(row(t)[e]), args.row_max[t]);
        target[e] = from_float<T>(args.d1[e] * value * args.d0[t]);
      }
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kSinkhornThreads) sinkhorn_kernel(SinkhornArgs args) {
  const auto grid = cooperative_groups::this_grid();
  const SinkhornStages<T> stages{args};
  stages.start();
  grid.sync();
  int iterations = 0;
  float change = INFINITY;
  while (iterations < args.max_iterations && !(args.tolerance > 0 && change <= args.tolerance)) {
    stages.update_rows();
    grid.sync();
    stages.sum_columns();
    grid.sync();
    stages.update_columns();
    grid.sync();
    change = stages.mean_change();
    ++iterations;
  }
  stages.write_output();
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    if (args.iterations != nullptr) *args.iterations = iterations;
    if (args.error != nullptr) *args.error = change;
  }
}

}  // namespace gg::cuda
