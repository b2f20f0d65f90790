// Tiles from their numbers, for both kernels. Tiles are numbered group by group
// (cuda/gemm/group_window.cuh); within a group, in an order whose neighbours in time share
// operands in L2.
#pragma once

#include "cuda/gemm/group_window.cuh"
#include "cuda/gemm/sm80/policy.h"

namespace gg::cuda::sm80 {

// ---- M-grouped ----------------------------------------------------------------------------------

// `rows` tokens from row0 on, of one group, and a tile of features.
struct alignas(16) MTile {
  int row0;
  int rows;
  int feature_tile;
  int group;  // -1: there are no more tiles

  __device__ __forceinline__ bool is_end() const { return group < 0; }
};

struct TokenTiles {
  int feature_tiles;  // of each token tile

  __device__ __forceinline__ static int of(int rows) { return divide_up(rows, kTileRows); }
  __device__ __forceinline__ int operator()(int rows) const { return of(rows) * feature_tiles; }
};

// Tile j of a group that has so many token tiles: equal blocks of about kTokenBlock token tiles;
// in a block token tiles run fastest, so that neighbours in time share weights and the block's
// tokens stay in L2.
struct Order {
  int feature_tile, token_tile;

  __device__ static Order of(int j, int token_tiles, int feature_tiles) {
    const int num_blocks = max(1, (token_tiles + kTokenBlock / 2) / kTokenBlock);
    const int wide = token_tiles / num_blocks + 1;  // width of the first blocks
    const int num_wide = token_tiles % num_blocks;
    const int in_wide = num_wide * wide * feature_tiles;
    const int width = j < in_wide ? wide : wide - 1;
    const int first_tile = j < in_wide ? 0 : in_wide;
    const int first_token_tile = j < in_wide ? 0 : num_wide * wide;
    const int block = (j - first_tile) / (width * feature_tiles);
    const int in_block = j - first_tile - block * width * feature_tiles;
    const int feature_tile = in_block / width;
    return {feature_tile, first_token_tile + block * width + in_block - feature_tile * width};
  }
};

// A group's rows, in steps of 32, are cut into equal tiles: a small last one would still load
// all its weights.
__device__ inline MTile m_tile(const GroupTile& found, int feature_tiles) {
  if (found.group < 0) return {0, 0, 0, -1};
  const int token_tiles = TokenTiles::of(found.rows);
  const Order at = Order::of(found.number, token_tiles, feature_tiles);
  const int steps = divide_up(found.rows, kRowStep);
  const int least = steps / token_tiles;
  const int num_longer = steps - least * token_tiles;  // by one step, the first ones
  const int length = (least + (at.token_tile < num_longer ? 1 : 0)) * kRowStep;
  const int row0 = (at.token_tile * least + min(at.token_tile, num_longer)) * kRowStep;
  return {found.row_begin + row0, min(found.rows - row0, length), at.feature_tile, found.group};
}

// ---- K-grouped ----------------------------------------------------------------------------------

// A tile of out and the rows that are summed up for it.
struct alignas(8) KTile {
  int row0;   // the group's first token row
  int rows;   // the group's: the length of the reduction, perhaps 0
  int group;  // -1: there are no more tiles
  int row_tile;
  int column_tile;
  int unused;

  __device__ __forceinline__ bool is_end() const { return group < 0; }
};

struct TilesOfEveryGroup {
  int tiles_per_group;
  bool skips_empty;  // where they leave out as it is

  __device__ __forceinline__ int operator()(int rows) const {
    return rows == 0 && skips_empty ? 0 : tiles_per_group;
  }
};

// The shorter side runs fastest.
__device__ inline KTile k_tile(const GroupTile& found, int row_tiles, int column_tiles) {
  if (found.group < 0) return {0, 0, -1, 0, 0, 0};
  const bool rows_run = row_tiles <= column_tiles;
  const int slow = found.number / (rows_run ? row_tiles : column_tiles);
  const int fast = found.number - slow * (rows_run ? row_tiles : column_tiles);
  return {found.row_begin,        found.rows, found.group, rows_run ? fast : slow,
          rows_run ? slow : fast, 0};
}

}  // namespace gg::cuda::sm80
