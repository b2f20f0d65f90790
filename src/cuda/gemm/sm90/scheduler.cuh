// The M-grouped kernel's tiles, from their numbers (group_window.cuh).
//
// Tiles are numbered expert by expert. A group's rows, in steps of 16, are cut
// into equal tiles of at most 256 (equal: a small last tile would still load all
// its weights; 3-19 % on ragged sizes, H200, 2026-11-22, gemm_m prototype).
#pragma once

#include "cuda/gemm/sm90/group_window.cuh"

namespace gg::cuda::sm90 {

template <class Policy>
struct TokenTiles {
  int feature_tiles;  // of each token tile

  __device__ __forceinline__ static int of(int rows) {
    return divide_up(rows, Policy::kTileTokens);
  }
  __device__ __forceinline__ int operator()(int rows) const { return of(rows) * feature_tiles; }
  __device__ __forceinline__ float work(int rows) const {
    return of(rows) == 0 ? 0.0f : max(rows, 64 * of(rows)) + 24.0f * of(rows);
  }
};

// Tile j of a group that has so many token tiles: its feature tile and token
// tile. Equal blocks of about kTokenBlock token tiles; in a block token tiles run
// fastest, so that neighbours in time share weights and the block's tokens stay in L2.
struct Order {
  int feature_tile, token_tile;

  template <class Policy>
  __device__ static Order of(int j, int token_tiles, int feature_tiles) {
    if (token_tiles == 1) return {j, 0};
    const int num_blocks = max(1, (token_tiles + Policy::kTokenBlock / 2) / Policy::kTokenBlock);
    if (num_blocks == 1) {
      const int feature_tile = j / token_tiles;
      return {feature_tile, j - feature_tile * token_tiles};
    }
    const int wide = token_tiles / num_blocks + 1;  // width of the first blocks
    const int num_wide = token_tiles % num_blocks;
    int in_block = j - num_wide * wide * feature_tiles;
    int first, width;
    if (in_block < 0) {
      width = wide;
      first = j / (wide * feature_tiles) * wide;
      in_block = j - first * feature_tiles;
    } else {
      width = wide - 1;
      const int block = in_block / (width * feature_tiles);
      first = num_wide * wide + block * width;
      in_block -= block * width * feature_tiles;
    }
    const int feature_tile = in_block / width;
    return {feature_tile, first + in_block - feature_tile * width};
  }
};

// All 32 lanes of one warp.
template <class Policy>
struct Scheduler {
  Shared<Policy>& shared;
  const MGroupedArgs& args;
  const int feature_tiles = divide_up(args.num_n, Policy::kTileFeatures);
  GroupWindow<TokenTiles<Policy>> window{
      args.groups, args.num_rows, {feature_tiles}, args.classes.small_rows};

  int last_row = 0;  // of the last group, once its end has been seen

  // The end where there is no such tile; nothing where a half of it has no rows.
  __device__ Tile tile(const Claim& claim) {
    const GroupTile found = window.find(claim.tile);
    if (found.group < 0) {
      last_row = window.last_row;
      return {0, 0, 0, 0};
    }
    const int token_tiles = TokenTiles<Policy>::of(found.rows);
    const Order at = Order::of<Policy>(found.number, token_tiles, feature_tiles);
    Steps steps = steps_of(at.token_tile, token_tiles, divide_up(found.rows, Policy::kTokenStep));
    if (claim.share != Claim::kWhole) steps = half_of(steps, claim.share);
    const int row0 = steps.first * Policy::kTokenStep;
    return {found.row_begin + row0, min(found.rows - row0, steps.count * Policy::kTokenStep),
            at.feature_tile, (found.group + 1) << 8 | steps.count};
  }

  // Of a token tile, in its group.
  struct Steps {
    int first, count;
  };

  __device__ __forceinline__ Steps steps_of(int token_tile, int token_tiles,
                                            int group_steps) const {
    if (token_tiles == 1) return {0, group_steps};
    const int least = group_steps / token_tiles;
    const int num_longer = group_steps - least * token_tiles;  // by one step, the first ones
    if (args.equal_tiles) {
      const int steps = least + (num_longer > 0 ? 1 : 0);
      return {token_tile * steps, steps};
    }
    return {token_tile * least + min(token_tile, num_longer),
            least + (token_tile < num_longer ? 1 : 0)};
  }

  __device__ __forceinline__ static Steps half_of(const Steps& whole, Claim::Share share) {
    const int most = max(divide_up(whole.count, 2), Policy::kLeastHalfSteps);
    const int from = share == Claim::kFirstHalf ? 0 : most;
    return {whole.first + from, min(most, whole.count - from)};
  }

  // Returns the end of the last group's rows.
  __device__ int run() {
    hand_out_tiles(shared, args.classes, *this);
    return last_row;
  }
};

}  // namespace gg::cuda::sm90
