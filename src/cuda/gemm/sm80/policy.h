// How fast, never what: the closed menu of tile shapes, and the pure host functions that
// say whether a problem can run here, which kernel it takes and how many slices fit into
// shared memory. They touch no device, so they are tested without one. No CUDA in this header.
#pragma once

#include "grouped_gemm/gmm.h"

namespace gg::cuda::sm80 {

inline constexpr int kTileRows = 128;    // of the output: tokens, or features of a weight gradient
inline constexpr int kRowStep = 32;      // granularity of a token tile's length
inline constexpr int kSliceBytes = 128;  // of reduction: 64 elements of 16 bits, 32 of 32
inline constexpr int kTokenBlock = 16;   // token tiles that pass over the features together

// Warps multiply 64 x 64 each, 2 along the rows: of 64 x 32 the reads of shared memory would be
// the bound. (benchmarks/NOTES.md has what else was tried.)
inline constexpr int kRowWarps = 2;
inline constexpr int kWarpColumns = 64;

// kStages: slices in shared memory at once, the one that is multiplied and those on their way. A
// constant, since a wait for the right one of several numbers is a branch in the main loop (H200,
// 2026-11-30, bf16 forward: 410 TFLOP/s cold with it, 431 without).
template <int kColumns, int kManyStages, int kBlocks = 1>
struct TilePolicy {
  static constexpr int kTileColumns = kColumns;
  static constexpr int kStages = kManyStages;
  static constexpr int kThreads = kRowWarps * (kColumns / kWarpColumns) * 32;
  static constexpr int kBlocksPerSm = kBlocks;  // that registers allow
};

// One block a multiprocessor: reads least from L2. A fourth stage brought nothing.
using Wide = TilePolicy<256, 3>;

// Two blocks where shared memory allows it, so that one multiplies while the other stores or
// waits. One block for a block's shared memory of 99 KB (8.6, 8.9, 12.x).
using Pair = TilePolicy<128, 3, 2>;

// For outputs with fewer tiles than there are multiprocessors: then latency is all there is (H200,
// 512 rows, 2048 x 2048, forward: 134 TFLOP/s cold, 103 with three stages). Also where one small
// block has a multiprocessor to itself, as outputs of at most 128 columns have it on 8.0.
using Deep = TilePolicy<128, 5>;

inline constexpr int kOtherBytes = 3072;  // of shared memory besides the stages: the scheduler's

constexpr int stage_bytes(int tile_columns) { return (kTileRows + tile_columns) * kSliceBytes; }

// A policy's tile width and stages, and how many blocks share a multiprocessor. stages == 0: none
// fits.
struct Shape {
  int tile_columns = 0;
  int stages = 0;
  int blocks_per_sm = 1;

  bool operator==(const Shape&) const = default;
};

// What of a problem decides on its shape. Tiles: upper bounds for any group sizes.
struct Work {
  int64_t num_columns = 0;
  int64_t wide_tiles = 0;
  int64_t small_tiles = 0;  // of Pair
  bool prefers_pairs = false;
};

// Tiles that leave no multiprocessor idle, as far as that is in their power. Where wide tiles and
// pairs of small ones both do that: pairs for `prefers_pairs`, or where wide tiles waste more on
// columns that do not exist.
Shape shape_for(const DeviceLimits& limits, const Work& work);

// Whether any shape fits.
bool has_shape(const DeviceLimits& limits);

// The blocks that `work` launches in a shape.
int64_t num_blocks_of(const DeviceLimits& limits, const Work& work, const Shape& shape);

// Which dimension of the weights [E, N, K] has stride 1.
enum class WeightMajor { kK, kN };

// What picks the M-grouped kernel.
struct Variant {
  DType in = DType::kBFloat16;
  DType out = DType::kBFloat16;  // in, or float32
  WeightMajor major = WeightMajor::kK;

  bool operator==(const Variant&) const = default;
};

// For a problem that is not refused.
Variant variant_of(const GmmProblem& problem);

// An upper bound for any group sizes.
int64_t max_num_tiles(const GmmProblem& problem, int tile_columns);

// At the head of the workspace: the counter of claimed tiles, a cache line.
inline constexpr int64_t kClaimsBytes = 128;

}  // namespace gg::cuda::sm80
