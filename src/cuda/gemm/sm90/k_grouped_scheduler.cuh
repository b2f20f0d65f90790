// The K-grouped kernel's shared memory, and its tiles from their numbers
// (group_window.cuh). Every group has as many tiles; those of empty groups exist
// where out must be zeroed.
#pragma once

#include "cuda/gemm/sm90/group_window.cuh"
#include "cuda/gemm/sm90/k_grouped_policy.h"

namespace gg::cuda::sm90 {

inline constexpr int kWarpRows = 16;  // of a wgmma tile that one warp holds
inline constexpr int kSlabBytes = kWarpRows * kRowBytes;

// A tile of out and the rows that are summed up for it.
struct alignas(16) KGroupedTile {
  int row0;     // the group's first token row
  int rows;     // the group's: the length of the reduction, perhaps 0
  int expert;   // -1: there are no more tiles
  int out_row;  // the tile's first row of out, and its first column
  int out_column;
  int columns;  // at most 256, within out
  int unused[2];

  __device__ __forceinline__ bool is_end() const { return expert < 0; }
  __device__ __forceinline__ bool is_nothing() const { return false; }
};

// The dynamic shared memory. NOTE: the swizzle needs stages and slabs at multiples
// of 1024 bytes; the kernel has no static shared memory before them.
template <class Policy>
struct alignas(1024) KGroupedShared {
  static constexpr int kStages = Policy::kStages;
  static constexpr int kConsumerWarps = 4 * Policy::kConsumers;
  static constexpr int kTileReaders = kConsumerWarps + 1 + (Policy::kHasCourier ? 1 : 0);
  static constexpr int kBoxBytes = Policy::kTileK * kRowBytes;
  static constexpr int kLeftBytes = Policy::kTileRows / Policy::kBoxFeatures * kBoxBytes;
  static constexpr int kStageBytes =
      kLeftBytes + Policy::kTileColumns / Policy::kBoxFeatures * kBoxBytes;

  uint8_t stage[kStages][kStageBytes];                        // boxes of left, then of right
  uint8_t slabs[kConsumerWarps][Policy::kSlabs][kSlabBytes];  // output on its way
  KGroupedTile tile[kTileRing];
  uint64_t full[kStages];         // the copy engine has filled the stage
  uint64_t empty[kStages];        // every consumer warp has multiplied it, or (tf32) copied it
  uint64_t tile_full[kTileRing];  // the scheduler has written the tile
  uint64_t tile_read[kTileRing];  // the consumers have read it, and the producer nears its end

  // Of slabs, k_grouped_add_epilogue.cuh: old values are there, sums are added to them.
  uint64_t slab_loaded[kConsumerWarps][Policy::kSlabs];
  uint64_t slab_added[kConsumerWarps][Policy::kSlabs];
};

struct TilesOfEveryGroup {
  int tiles_per_group;
  bool skips_empty;

  __device__ __forceinline__ int operator()(int rows) const {
    return rows == 0 && skips_empty ? 0 : tiles_per_group;
  }
  __device__ __forceinline__ float work(int rows) const {
    return rows == 0 && skips_empty ? 0 : max(rows, 128) + 64.0f;
  }
};

// All 32 lanes of one warp. kSkipsEmpty: empty groups leave out as it is.
template <class Policy, bool kSkipsEmpty>
struct KGroupedScheduler {
  const KGroupedArgs& args;
  const int row_tiles = divide_up(args.out_rows, Policy::kTileRows);
  const int column_tiles = divide_up(args.out_columns, Policy::kTileColumns);
  GroupWindow<TilesOfEveryGroup> window{
      args.groups, args.num_rows, {row_tiles * column_tiles, kSkipsEmpty}, args.classes.small_rows};

  // The shorter side runs fastest, so that tiles in flight share operands in L2.
  __device__ KGroupedTile tile(const Claim& claim) {
    const GroupTile found = window.find(claim.tile);
    if (found.group < 0) return {0, 0, -1, 0, 0, 0, {}};
    int row_tile, column_tile;
    if (row_tiles <= column_tiles) {
      column_tile = found.number / row_tiles;
      row_tile = found.number - column_tile * row_tiles;
    } else {
      row_tile = found.number / column_tiles;
      column_tile = found.number - row_tile * column_tiles;
    }
    const int column_steps = divide_up(args.out_columns, Policy::kColumnStep);
    const int least = column_steps / column_tiles;
    const int num_wider = column_steps - least * column_tiles;  // by one step, the first ones
    const int steps = least + (column_tile < num_wider ? 1 : 0);
    const int column0 = (column_tile * least + min(column_tile, num_wider)) * Policy::kColumnStep;
    return {found.row_begin,
            found.rows,
            found.group,
            row_tile * Policy::kTileRows,
            column0,
            min(steps * Policy::kColumnStep, args.out_columns - column0),
            {}};
  }

  __device__ void run(KGroupedShared<Policy>& shared) {
    hand_out_tiles(shared, args.classes, *this);
  }
};

}  // namespace gg::cuda::sm90
