// What the kernels are given. Filled by run.cc; extents are at most 2^30 (policy.cc).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/gemm/groups.h"

namespace gg::cuda::sm70 {

// Where results go.
struct Output {
  void* data;
  int64_t pitch;    // elements between rows
  bool is_float32;  // else float16
  bool in_vectors;  // address and strides are multiples of 8 elements
  bool accumulate;  // += instead of =
};

struct MGroupedArgs {
  const __half* tokens;   // [T, K], rows contiguous
  const __half* weights;  // [E, N, K] or [E, K, N]
  Output out;             // [T, N]
  DeviceGroups groups;
  int num_rows;  // T
  int num_n;
  int num_k;
  int64_t token_pitch;
  int64_t weight_pitch;         // between neighbours of the dimension that is not contiguous
  int64_t weight_group_stride;  // between matrices
};

// out[e] = left^T right over the rows of group e. Left has the features that are out's
// rows, right those that lie contiguous in out (layouts.h, roles_of).
struct KGroupedArgs {
  const __half* left;   // [T, out_rows]
  const __half* right;  // [T, out_columns]
  Output out;           // [E, out_rows, out_columns]
  DeviceGroups groups;
  int num_rows;  // T
  int out_rows;
  int out_columns;
  int64_t left_pitch;
  int64_t right_pitch;
  int64_t out_group_stride;
};

}  // namespace gg::cuda::sm70
