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

// A warp multiplies 64 x 64. By counting, not timed yet: at 1270 products a cycle and
// multiprocessor (mma.sync on Hopper) a step of 32 bytes takes 413 cycles, in which shared memory
// is read for 256 and written for 96; 32 columns fewer a warp would make it the bound.
struct Wide {
  static constexpr int kTileColumns = 256;
};

// A warp multiplies 64 x 32. For a block's shared memory of 99 KB (8.6, 8.9, 12.x), and for
// outputs too small to fill the GPU with wide tiles.
struct Narrow {
  static constexpr int kTileColumns = 128;
};

inline constexpr int kMinStages = 3;  // the one that is multiplied, and two on their way
inline constexpr int kMaxStages = 5;
inline constexpr int kOtherBytes = 3072;  // of shared memory besides the stages: the scheduler's

constexpr int stage_bytes(int tile_columns) { return (kTileRows + tile_columns) * kSliceBytes; }

// What a block may hold: a tile's width and the slices of both operands that are in shared
// memory at once. stages == 0: not even the narrow tile fits.
struct Shape {
  int tile_columns = 0;
  int stages = 0;

  bool operator==(const Shape&) const = default;
};

// The widest shape for so much shared memory, for at most this width.
Shape shape_for(int64_t shared_bytes, int widest);

// The widest tile that leaves no multiprocessor idle, as far as that is in its power:
// num_tiles(columns) is the number of tiles of that width, at least one a group.
template <typename NumTiles>
int widest_for(const NumTiles& num_tiles, int64_t num_columns, int num_sms) {
  const bool is_slim = num_columns <= Narrow::kTileColumns;
  const bool is_few = num_tiles(Wide::kTileColumns) < num_sms;
  return is_slim || is_few ? Narrow::kTileColumns : Wide::kTileColumns;
}

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
