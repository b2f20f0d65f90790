// sinkhorn on CUDA for rows that do not fit the registers of a warp: one
// cooperative kernel, a stage for the rows, one for the columns, one that adds up.
//
// Every sum has a fixed order: over columns within a warp; over rows in chunks,
// and then over chunks: results repeat bit for bit.
#pragma once

#include <cooperative_groups.h>

#include "cuda/routing/sinkhorn_args.cuh"

namespace gg::cuda {

inline constexpr int kSinkhornWarps = 8;
inline constexpr int kSinkhornThreads = kSinkhornWarps * 32;

template <typename T>
struct SinkhornWideStages {
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
      largest = Lanes<32>::max(largest);
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
      sum = Lanes<32>::sum(sum) + kSinkhornEpsilon * expf(-largest);
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
    return Lanes<32>::sum(sum) / static_cast<float>(args.num_columns);
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
__global__ void __launch_bounds__(kSinkhornThreads) sinkhorn_wide_kernel(SinkhornArgs args) {
  const auto grid = cooperative_groups::this_grid();
  const SinkhornWideStages<T> stages{args};
  stages.start();
  grid.sync();
  int iterations = 0;
  float change = INFINITY;
  while (goes_on(args, iterations, change)) {
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
  report(args, iterations, change);
}

}  // namespace gg::cuda
