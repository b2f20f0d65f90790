// What the kernels are given. Filled by launch.cu and k_grouped_launch.cu.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/gemm/groups.h"

namespace gg::cuda::sm90 {

// Token descriptors differ in the rows of their box only: 16, 32, ... 256.
inline constexpr int kTokenBoxes = 5;

// How blocks share out the tiles: those of groups of at most small_rows rows, and those
// of the others, are two classes that are worked on side by side (policy.h).
struct TileClasses {
  unsigned* claims;  // [2], 0 at the start: tiles handed out beyond each block's first; or null,
                     // where there are none
  int small_rows;    // -1: all groups are of one class
  bool halves;       // whether tiles of the last wave are cut in two (policy.h)
};

struct MGroupedArgs {
  CUtensorMap tokens[kTokenBoxes];  // [T, K]
  CUtensorMap weights;              // [E, N, K] or [E, K, N]
  CUtensorMap out_pieces;  // the clipped view of out, tensor_maps.cc; unused by threads' stores
  void* out;               // [T, N]
  int64_t out_pitch;       // elements between rows
  DeviceGroups groups;
  TileClasses classes;
  int num_rows;  // T
  int num_n;
  int num_k;
  bool equal_tiles;  // policy.h
};

// out[e] = left^T right over the rows of group e. Left has the features that are
// out's rows, right those that lie contiguous in out: dy and the tokens for an out
// [E, N, K], the tokens and dy where it is an [E, K, N] seen through strides.
struct KGroupedArgs {
  CUtensorMap left;               // [T, out_rows], the overlapping view of tensor_maps.cc
  CUtensorMap right;              // [T, out_columns], such a view, too
  CUtensorMap out;                // [E, out_rows, out_columns]
  CUtensorMap out_columns_ahead;  // the same, in boxes of a tile's 128 rows
  DeviceGroups groups;
  TileClasses classes;
  int num_rows;  // T
  int out_rows;
  int out_columns;
};

}  // namespace gg::cuda::sm90
