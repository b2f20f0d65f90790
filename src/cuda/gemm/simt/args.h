// What the kernels are given. Filled by launch.cu; pitches and strides in elements.
#pragma once

#include "cuda/gemm/groups.h"

namespace gg::cuda::simt {

// Where sums go: [rows, columns], columns contiguous.
struct OutArgs {
  void* data;
  int64_t pitch;
  int64_t matrix_stride;  // K-grouped: between groups
  bool is_float;          // else the operands' type
  bool has_vectors;       // four columns can be stored at once
  bool accumulate;
};

struct MGroupedArgs {
  const void* tokens;   // [T, K]
  const void* weights;  // [E, N, K] or [E, K, N]
  OutArgs out;          // [T, N]
  DeviceGroups groups;
  int64_t num_rows;  // T
  int64_t num_n;
  int64_t num_k;
  int64_t token_pitch;
  int64_t weight_pitch;
  int64_t weight_stride;  // between experts
};

struct KGroupedArgs {
  const void* left;   // [T, out rows]
  const void* right;  // [T, out columns]
  OutArgs out;        // [E, out rows, out columns]
  DeviceGroups groups;
  int64_t num_rows;  // T
  int64_t out_rows;
  int64_t out_columns;
  int64_t left_pitch;
  int64_t right_pitch;
};

}  // namespace gg::cuda::simt
