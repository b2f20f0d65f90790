// What the kernels are given. Filled by launch.cu and k_grouped_launch.cu.
#pragma once

#include <cstdint>

#include "cuda/gemm/groups.h"

namespace gg::cuda::sm80 {

// One operand in global memory. Pitches in bytes, multiples of 16.
struct Matrices {
  const char* begin;
  int64_t matrix_bytes;  // from one group's matrix to the next; 0 where the groups share one
  uint32_t pitch;        // from one row to the next, along the dimension without stride 1
};

struct MGroupedArgs {
  Matrices tokens;    // [T, K]
  Matrices weights;   // [E, N, K] or [E, K, N]
  void* out;          // [T, N]
  int64_t out_pitch;  // elements between rows
  DeviceGroups groups;
  unsigned* claims;  // 0 at the start: tiles handed out beyond each block's first
  int num_rows;      // T
  int num_n;
  int num_k;
  bool whole_chunks;  // epilogue.cuh: Target::whole
};

// out[e] = left^T right over the rows of group e. Left has the features that are out's rows,
// right those that lie contiguous in out.
struct KGroupedArgs {
  Matrices left;      // [T, out_rows]
  Matrices right;     // [T, out_columns]
  void* out;          // [E, out_rows, out_columns]
  int64_t out_group;  // elements between groups, and between rows
  int64_t out_pitch;
  DeviceGroups groups;
  unsigned* claims;
  int num_rows;  // T
  int out_rows;
  int out_columns;
  bool whole_chunks;
  bool accumulate;
};

}  // namespace gg::cuda::sm80
