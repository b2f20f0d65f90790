// Hands out tiles: one warp of each block walks over the group sizes, claims
// tile numbers from a counter that all blocks share, and turns them into tiles.
//
// Tiles are numbered expert by expert. A group's rows, in steps of 16, are cut
// into equal tiles of at most 256 (equal: a small last tile would still load all
// its weights; 3-19 % on ragged sizes, H200, 2026-11-22, gemm_m prototype).
#pragma once

#include "base/math.h"
#include "cuda/gemm/sm90/pipeline.cuh"

namespace gg::cuda::sm90 {

inline constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }
__device__ __forceinline__ int divide_up(int a, int b) { return (a + b - 1) / b; }

// Values >= 0 over the lanes of a warp; `combine` is associative.
template <typename Combine>
__device__ __forceinline__ int inclusive_scan(int value, const Combine& combine) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int lower = __shfl_up_sync(kWholeWarp, value, step);
    if (lane_index() >= step) value = combine(lower, value);
  }
  return value;
}

// 32 groups at a time, one a lane: their rows and the numbers of their tiles.
// Nobody has checked device sizes: negative ones count as 0, falling ends as
// empty groups, what lies beyond the T rows is cut off (as group_rows.cuh does).
template <class Policy>
struct GroupWindow {
  const DeviceGroups& groups;
  const int num_rows;       // T, at most 2^30: sums of two clamped values fit an int
  const int feature_tiles;  // of each token tile
  int next_group = 0;       // the first one past the window
  int2 upcoming;            // this lane's entry for the next window, as loaded
  int row_begin = 0, row_end = 0;
  int tile_begin = 0, tile_end = 0;
  int last_row = 0, last_tile = 0;  // ends of the window: of all groups so far

  __device__ GroupWindow(const DeviceGroups& groups, int num_rows, int feature_tiles)
      : groups(groups), num_rows(num_rows), feature_tiles(feature_tiles), upcoming(load(0)) {}

  __device__ __forceinline__ static int token_tiles(int rows) {
    return divide_up(rows, Policy::kTileTokens);
  }

  // Groups past the last one are empty: size 0, or an end of 0. NOTE: a load and
  // nothing else; whatever works on the value here would wait for it.
  __device__ __forceinline__ int2 load(int first_group) const {
    const int64_t group = first_group + lane_index();
    int2 words{0, 0};
    if (group >= groups.num_groups) return words;
    if (groups.is_int64) {
      words = static_cast<const int2*>(groups.data)[group];
    } else {
      words.x = static_cast<const int32_t*>(groups.data)[group];
    }
    return words;
  }

  __device__ __forceinline__ int clamped(int2 words) const {
    const int64_t wide = int64_t{words.y} << 32 | static_cast<uint32_t>(words.x);
    return static_cast<int>(base::clamp(groups.is_int64 ? wide : words.x, 0, num_rows));
  }

  __device__ __forceinline__ int combined(int before, int value) const {
    return groups.cumulative ? max(before, value) : min(before + value, num_rows);
  }

  __device__ __forceinline__ bool has_more() const { return next_group < groups.num_groups; }

  __device__ __forceinline__ void advance() {
    const int current = clamped(upcoming);
    next_group += 32;
    upcoming = load(next_group);  // early: its latency passes under the tile in between
    row_end =
        combined(last_row, inclusive_scan(current, [&](int a, int b) { return combined(a, b); }));
    const int before = __shfl_up_sync(kWholeWarp, row_end, 1);
    row_begin = lane_index() == 0 ? last_row : before;
    const int tiles = token_tiles(row_end - row_begin) * feature_tiles;
    tile_end = last_tile + inclusive_scan(tiles, [](int a, int b) { return a + b; });
    tile_begin = tile_end - tiles;
    last_row = __shfl_sync(kWholeWarp, row_end, 31);
    last_tile = __shfl_sync(kWholeWarp, tile_end, 31);
  }
};

// Tile j of a group that has so many token tiles: its feature tile and token
// tile. Equal blocks of about kTokenBlock token tiles; in a block token tiles run
// fastest, so that neighbours in time share weights and the block's tokens stay in L2.
struct Order {
  int feature_tile, token_tile;

  template <class Policy>
  __device__ static Order of(int j, int token_tiles, int feature_tiles) {
    const int num_blocks = max(1, (token_tiles + Policy::kTokenBlock / 2) / Policy::kTokenBlock);
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
  GroupWindow<Policy> window{args.groups, args.num_rows, feature_tiles};

  // Numbers are asked for in rising order. The end where there is no such tile.
  __device__ Tile tile(int number) {
    while (number >= window.last_tile) {
      if (!window.has_more()) return {0, 0, 0, 0};
      window.advance();
    }
    // Lanes whose tiles all come before it; those of empty groups do, too.
    const int lane = __popc(__ballot_sync(kWholeWarp, window.tile_end <= number));
    const int row_begin = __shfl_sync(kWholeWarp, window.row_begin, lane);
    const int rows = __shfl_sync(kWholeWarp, window.row_end, lane) - row_begin;
    const int first = __shfl_sync(kWholeWarp, window.tile_begin, lane);
    const int expert = window.next_group - 32 + lane;

    const int token_tiles = window.token_tiles(rows);
    const Order at = Order::of<Policy>(number - first, token_tiles, feature_tiles);
    const int group_steps = divide_up(rows, Policy::kTokenStep);
    const int least = group_steps / token_tiles;
    const int num_longer = group_steps - least * token_tiles;  // by one step, the first ones
    const int steps = least + (at.token_tile < num_longer ? 1 : 0);
    const int row0 = (at.token_tile * least + min(at.token_tile, num_longer)) * Policy::kTokenStep;
    return {row_begin + row0, min(rows - row0, steps * Policy::kTokenStep), at.feature_tile,
            expert << 8 | steps};
  }

  __device__ int claim() {
    int number = 0;
    if (lane_index() == 0) number = static_cast<int>(gridDim.x + atomicAdd(args.claims, 1u));
    return __shfl_sync(kWholeWarp, number, 0);
  }

  // Returns the end of the last group's rows.
  __device__ int run() {
    int number = blockIdx.x;
    for (Cursor<kTileRing> ring;; ring.next()) {
      const Tile next = tile(number);
      if (lane_index() == 0) {
        shared.tile[ring.slot] = next;
        ptx::mbarrier_arrive(shared.tile_full[ring.slot]);
      }
      if (next.is_end()) break;
      // Claim late: a queued tile is one that no idle block can take (+1-4 % on
      // random sizes, H200, 2026-11-22, gemm_m prototype).
      ptx::mbarrier_wait(shared.tile_read[ring.slot], ring.parity);
      number = claim();
    }
    return window.last_row;
  }
};

}  // namespace gg::cuda::sm90
