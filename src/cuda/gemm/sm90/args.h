// What the M-grouped kernel is given. Filled by launch.cu.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/gemm/groups.h"

namespace gg::cuda::sm90 {

// Token descriptors differ in the rows of their box only: 16, 32, ... 256.
inline constexpr int kTokenBoxes = 5;

struct MGroupedArgs {
  CUtensorMap tokens[kTokenBoxes];  // [T, K]
  CUtensorMap weights;              // [E, N, K] or [E, K, N]
  CUtensorMap out_pieces;  // the clipped view of out, tensor_maps.cc; unused by threads' stores
  void* out;               // [T, N]
  int64_t out_pitch;       // elements between rows
  DeviceGroups groups;
  unsigned* claims;  // 0 at the start: tiles handed out beyond the first of each block
  int num_rows;      // T
  int num_n;
  int num_k;
};

}  // namespace gg::cuda::sm90
