// What both sinkhorn kernels take: sinkhorn_rows.cuh where a row fits the
// registers of a warp, sinkhorn_wide.cuh beyond. Row maxima m are subtracted as on
// the CPU: C' = exp(cost - m), d0' = exp(m) d0 = 1 / (T (C' d1 + eps exp(-m))).
#pragma once

#include "cuda/common/lanes.cuh"
#include "cuda/common/number.cuh"

namespace gg::cuda {

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
  float* d0;        // scratch [T]
  float* partial;   // scratch [num_chunks, E]: column sums; rows: two of them, in turn
  float* row_max;   // wide only: scratch [T]
  float* d1;        // wide only: scratch [E]
  float* change;    // wide only: scratch [E], |change of d1|
};

// Rows begin to end, so many at a time, from the first or from the last.
struct SinkhornSteps {
  int begin, end;
  int first, stop, distance;  // first rows of the steps: for (i = first; i != stop; i += distance)

  __device__ __forceinline__ SinkhornSteps(int begin_row, int end_row, int rows, bool is_backward)
      : begin(begin_row), end(end_row) {
    const int past = begin + (end - begin + rows - 1) / rows * rows;
    first = is_backward ? past - rows : begin;
    stop = is_backward ? begin - rows : past;
    distance = is_backward ? -rows : rows;
  }
};

// C' of one element; a row of -inf logits takes part in nothing.
__device__ __forceinline__ float scaled(float logit, float row_max) {
  return row_max == -INFINITY ? 0.0f : expf(logit - row_max);
}

__device__ __forceinline__ bool goes_on(const SinkhornArgs& args, int iterations, float change) {
  return iterations < args.max_iterations && !(args.tolerance > 0 && change <= args.tolerance);
}

__device__ __forceinline__ void report(const SinkhornArgs& args, int iterations, float change) {
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  if (args.iterations != nullptr) *args.iterations = iterations;
  if (args.error != nullptr) *args.error = change;
}

}  // namespace gg::cuda
