// sinkhorn on CUDA for up to 1024 columns: one cooperative kernel that reads the
// input once per iteration. A warp holds a row (a quarter of it where E <= 32),
// forms the row's d0, and at once adds its part to column sums in registers. A
// chunk's column sums are published; after the one grid-wide wait of an iteration
// every block adds all chunks' for itself, in the same order, and so has the same
// d1 and the same answer to whether to go on. Where a chunk fits its block's
// shared memory it is read from memory once: C' stays on the chip. Elsewhere passes
// take turns in their direction: what was read last is still in the L2.
// Chunks do not depend on the GPU and sums have a fixed order: results repeat bit
// for bit. Launched by sinkhorn.cu.
#pragma once

#include <cooperative_groups.h>

#include "base/math.h"
#include "cuda/routing/sinkhorn_args.cuh"

namespace gg::cuda {

// As many threads as registers allow, one block to a multiprocessor; column sums
// of all warps take 32 KB of shared memory at most.
GG_HOST_DEVICE constexpr int sinkhorn_rows_threads(int values_per_lane) {
  return values_per_lane <= 8 ? 1024 : (values_per_lane == 16 ? 512 : 256);
}

// Shared memory, in floats: d1[E], change[E], sums[warps][E], then, where C' stays
// on the chip, C'[chunk_rows][E], eps exp(-m) [chunk_rows].
GG_HOST_DEVICE int64_t sinkhorn_rows_floats(int64_t num_columns, int num_warps,
                                            int64_t resident_rows) {
  return (2 + num_warps) * num_columns + resident_rows * (num_columns + 1);
}

template <typename T, int kLanes, int kValues, bool kResident>
struct SinkhornRows {
  using Group = Lanes<kLanes>;
  static constexpr int kThreads = sinkhorn_rows_threads(kValues);
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kStep = kWarps * Group::kRowsPerWarp;  // rows that a block takes at a time

  const SinkhornArgs& args;
  float* d1;       // shared [E]
  float* change;   // shared [E]
  float* sums;     // shared [kWarps, E]
  float* kept;     // shared [chunk_rows, E]
  float* epsilon;  // shared [chunk_rows]
  int chunk_rows;
  int lane = threadIdx.x % kLanes;
  int warp = threadIdx.x / 32;
  int row_in_block = threadIdx.x / kLanes;

  __device__ SinkhornRows(const SinkhornArgs& sinkhorn_args, float* shared)
      : args(sinkhorn_args),
        d1(shared),
        change(d1 + args.num_columns),
        sums(change + args.num_columns),
        kept(sums + kWarps * args.num_columns),
        chunk_rows((args.num_rows + args.num_chunks - 1) / args.num_chunks) {
    epsilon = kept + (kResident ? chunk_rows * args.num_columns : 0);
    for (int e = threadIdx.x; e < args.num_columns; e += kThreads) d1[e] = 1.0f;
  }

  // A row's elements of this lane: logits, or C' where it is kept.
  struct Row {
    float values[kValues];
  };

  __device__ __forceinline__ void load(Row& row, int t, int begin, int end, bool is_kept) const {
    const bool from_kept = kResident && is_kept;
    const T* cost = static_cast<const T*>(args.cost) + static_cast<int64_t>(t) * args.num_columns;
    const float* near = kept + (from_kept ? (t - begin) * args.num_columns : 0);
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = v * kLanes + lane;
      const bool exists = t < end && e < args.num_columns;
      if (from_kept) {
        row.values[v] = exists ? near[e] : 0.0f;
      } else {
        row.values[v] = exists ? to_float(cost[e]) : -INFINITY;
      }
    }
  }

  // Logits to C' in place; returns eps exp(-m).
  __device__ __forceinline__ float scale(Row& row) const {
    float largest = row.values[0];
#pragma unroll
    for (int v = 1; v < kValues; ++v) largest = fmaxf(largest, row.values[v]);
    largest = Group::max(largest);
#pragma unroll
    for (int v = 0; v < kValues; ++v) row.values[v] = scaled(row.values[v], largest);
    return kSinkhornEpsilon * expf(-largest);
  }

  __device__ __forceinline__ void keep(const Row& row, int t, int begin, int end,
                                       float row_epsilon) const {
    if (t >= end) return;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = v * kLanes + lane;
      if (e < args.num_columns) kept[(t - begin) * args.num_columns + e] = row.values[v];
    }
    if (lane == 0) epsilon[t - begin] = row_epsilon;
  }

  // Pass `pass` over a chunk's rows; what is kept on the chip may as well stay in order.
  __device__ __forceinline__ SinkhornSteps steps_of(int chunk, int pass) const {
    const int begin = min(chunk * chunk_rows, args.num_rows);
    const int end = min(begin + chunk_rows, args.num_rows);
    return SinkhornSteps(begin, end, kStep, !kResident && pass % 2 != 0);
  }

  // d0, and the chunks' column sums.
  __device__ __forceinline__ void sweep(float* partial, int pass) const {
    const bool is_kept = pass > 0;
    float own_d1[kValues];
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = v * kLanes + lane;
      own_d1[v] = e < args.num_columns ? d1[e] : 0.0f;
    }
    for (int chunk = blockIdx.x; chunk < args.num_chunks; chunk += gridDim.x) {
      float column_sums[kValues] = {};
      const SinkhornSteps steps = steps_of(chunk, pass);
      const int begin = steps.begin, end = steps.end;
      Row next;
      load(next, steps.first + row_in_block, begin, end, is_kept);
      for (int first = steps.first; first != steps.stop; first += steps.distance) {
        const int t = first + row_in_block;
        Row row = next;
        const int then = first + steps.distance;
        if (then != steps.stop) load(next, then + row_in_block, begin, end, is_kept);
        float row_epsilon;
        if (kResident && is_kept) {
          row_epsilon = t < end ? epsilon[t - begin] : INFINITY;
        } else {
          row_epsilon = scale(row);
          if constexpr (kResident) keep(row, t, begin, end, row_epsilon);
        }
        float sum = 0.0f;
#pragma unroll
        for (int v = 0; v < kValues; ++v) sum += row.values[v] * own_d1[v];
        sum = Group::sum(sum) + row_epsilon;
        const float d0 = 1.0f / (static_cast<float>(args.num_rows) * sum);
#pragma unroll
        for (int v = 0; v < kValues; ++v) column_sums[v] += row.values[v] * d0;
        if (lane == 0 && t < end) args.d0[t] = d0;
      }
      publish(column_sums, partial + static_cast<int64_t>(chunk) * args.num_columns);
    }
  }

  __device__ __forceinline__ void publish(const float (&column_sums)[kValues],
                                          float* partial) const {
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const float sum = Group::sum_rows(column_sums[v]);
      const int e = v * kLanes + lane;
      if (threadIdx.x % 32 < kLanes && e < args.num_columns) {
        sums[warp * args.num_columns + e] = sum;
      }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < args.num_columns; e += kThreads) {
      float total = 0.0f;
      for (int w = 0; w < kWarps; ++w) total += sums[w * args.num_columns + e];
      partial[e] = total;
    }
    __syncthreads();  // the next chunk's sums
  }

  // Adds the chunks: a warp takes 32 columns of every num_slices-th chunk.
  __device__ __forceinline__ void update_columns(const float* partial) const {
    const int E = args.num_columns;
    const int num_tiles = (E + 31) / 32;
    const int num_slices = max(kWarps / num_tiles, 1);
    for (int item = warp; item < num_tiles * num_slices; item += kWarps) {
      const int e = item % num_tiles * 32 + threadIdx.x % 32;
      const int slice = item / num_tiles;
      if (e >= E) continue;
      float sum = 0.0f;
#pragma unroll 16
      for (int chunk = slice; chunk < args.num_chunks; chunk += num_slices) {
        sum += __ldcg(partial + static_cast<int64_t>(chunk) * E + e);
      }
      sums[slice * E + e] = sum;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < E; e += kThreads) {
      float sum = 0.0f;
      for (int slice = 0; slice < num_slices; ++slice) sum += sums[slice * E + e];
      const float updated = 1.0f / (static_cast<float>(E) * (sum + kSinkhornEpsilon));
      change[e] = fabsf(updated - d1[e]);
      d1[e] = updated;
    }
    __syncthreads();
  }

  // The same value in every thread of the grid.
  __device__ __forceinline__ float mean_change() const {
    float sum = 0.0f;
    for (int e = threadIdx.x % 32; e < args.num_columns; e += 32) sum += change[e];
    return Lanes<32>::sum(sum) / static_cast<float>(args.num_columns);
  }

  // Evicted first, so that the input stays in the L2.
  __device__ __forceinline__ void write_output(int pass) const {
    for (int chunk = blockIdx.x; chunk < args.num_chunks; chunk += gridDim.x) {
      const SinkhornSteps steps = steps_of(chunk, pass);
      for (int first = steps.first; first != steps.stop; first += steps.distance) {
        const int t = first + row_in_block;
        Row row;
        load(row, t, steps.begin, steps.end, kResident);
        if constexpr (!kResident) scale(row);
        if (t >= steps.end) continue;  // by whole rows, and no lane is waited for below
        const float d0 = args.d0[t];
        T* output = static_cast<T*>(args.output) + static_cast<int64_t>(t) * args.num_columns;
#pragma unroll
        for (int v = 0; v < kValues; ++v) {
          const int e = v * kLanes + lane;
          if (e < args.num_columns) __stcs(output + e, from_float<T>(d1[e] * row.values[v] * d0));
        }
      }
    }
  }
};

template <typename T, int kLanes, int kValues, bool kResident>
__global__ void __launch_bounds__(sinkhorn_rows_threads(kValues), 1)
    sinkhorn_rows_kernel(const SinkhornArgs args) {
  extern __shared__ float shared_floats[];
  const auto grid = cooperative_groups::this_grid();
  const SinkhornRows<T, kLanes, kValues, kResident> rows(args, shared_floats);
  const int64_t partial_floats = static_cast<int64_t>(args.num_chunks) * args.num_columns;
  __syncthreads();
  int iterations = 0;
  float change = INFINITY;
  while (goes_on(args, iterations, change)) {
    // Two buffers: a block may still add the last iteration's while another is here.
    float* partial = args.partial + iterations % 2 * partial_floats;
    rows.sweep(partial, iterations);
    grid.sync();
    rows.update_columns(partial);
    change = rows.mean_change();
    __syncthreads();  // before the next change
    ++iterations;
  }
  rows.write_output(iterations);
  report(args, iterations, change);
}

}  // namespace gg::cuda
