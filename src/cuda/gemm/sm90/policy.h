// How fast, never what: the closed menu of tile shapes, and the pure host
// functions that say whether a problem can run here and which kernel it takes.
// They touch no device, so they are tested without one. No CUDA in this header.
#pragma once

#include <string_view>

#include "base/math.h"
#include "grouped_gemm/gmm.h"

namespace gg::cuda::sm90 {

// 128 output features x at most 256 tokens.
// H200, 2026-11-22, gemm_m prototype, geometric mean of 22 cells: 256
// features x 128 tokens 1.7 % slower, 3 stages or 128 x 192 5 %, steps of 32 tokens 1 %.
// Shared memory bounds it at n / (64 + 0.75 n) for tiles of n tokens; 192 features x at most 192
// tokens, which fit N = 2880, would be bound no higher (benchmarks/NOTES.md, "What bounds a tile").
struct GeneralPolicy {
  static constexpr int kConsumers = 2;  // warpgroups, of 64 features each
  static constexpr int kTileFeatures = 64 * kConsumers;
  static constexpr int kTileTokens = 256;    // at most; a group is cut into equal tiles
  static constexpr int kTokenStep = 16;      // granularity of a tile's length
  static constexpr int kTileK = 64;          // 128 bytes: a row of the copy engine's swizzle
  static constexpr int kStages = 4;          // k-blocks in shared memory
  static constexpr int kTokenBlock = 8;      // token tiles that pass over the features together
  static constexpr int kClaimLead = 4;       // k-blocks before its end that a tile claims the next
  static constexpr int kLeastHalfSteps = 4;  // of a tile of the last wave; less saves no time
  static constexpr int kBlocksPerSm = 1;     // that are launched
  static constexpr int kRegisterBlocks = 1;  // that registers leave room for

  // Of a thread; 128 * 40 + 256 * 232 <= 65536. 24 and 240 spill the producer.
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 232;

  // Shared memory: the stages, 32 KB to stage the output, barriers.
  static constexpr int64_t kSharedBytes =
      kStages * (kTileFeatures + kTileTokens) * kTileK * 2 + 32 * 1024 + 1024;
};

// 64 x at most 128, two blocks a multiprocessor: where wide tiles would be few, or wait for
// weights more than they multiply. tile_shape_for() below says where.
struct NarrowPolicy : GeneralPolicy {
  static constexpr int kConsumers = 1;
  static constexpr int kTileFeatures = 64 * kConsumers;
  static constexpr int kTileTokens = 128;
  static constexpr int kBlocksPerSm = 2;
  static constexpr int kRegisterBlocks = 2;
  static constexpr int kConsumerRegisters = 216;  // 128 * (40 + 216) = 32768
  static constexpr int64_t kSharedBytes =
      kStages * (kTileFeatures + kTileTokens) * kTileK * 2 + 16 * 1024 + 1024;
};

// The same by one block with twice the stages: where there is not even one narrow tile for each
// multiprocessor, what counts is how much a block has on its way.
struct DeepPolicy : NarrowPolicy {
  static constexpr int kStages = 8;
  static constexpr int kBlocksPerSm = 1;
  static constexpr int64_t kSharedBytes =
      kStages * (kTileFeatures + kTileTokens) * kTileK * 2 + 16 * 1024 + 1024;
};

// fp32 operands, rounded to tf32: half as many elements in the same bytes.
struct Tf32Policy : GeneralPolicy {
  static constexpr int kTileK = 32;
};

// Which dimension of the weights [E, N, K] has stride 1.
enum class WeightMajor { kK, kN };

// How the output leaves: whole pieces by the copy engine, or thread by thread
// where its rows are no multiples of 16 bytes.
enum class StoreBy { kCopyEngine, kThreads };

enum class TileShape { kGeneral, kNarrow, kDeep };

// What picks the kernel.
struct Variant {
  DType in = DType::kBFloat16;   // float32: as tf32
  DType out = DType::kBFloat16;  // in, or float32
  WeightMajor major = WeightMajor::kK;
  StoreBy store = StoreBy::kCopyEngine;
  TileShape tile = TileShape::kGeneral;

  bool operator==(const Variant&) const = default;
};

// Why this path cannot run the problem, as a clause; empty where it can. The
// compute capability is not asked for here: core/path.cc knows it.
std::string_view refusal(const GmmProblem& problem, const DeviceLimits& limits);

// For a problem that is not refused, as far as the operands decide; the plan knows the tile.
Variant variant_of(const GmmProblem& problem);

// The policy of a problem that is not refused. Narrow: groups of a few rows, or so few tiles that
// wide ones would not fill the GPU; deep: that not even narrow ones do. H200, 2026-11-29, 16 to 256
// groups, cold, against wide tiles: 1 to 32 rows a group 1.02 to 1.30 times as fast, 64 rows 1.00
// to 1.29, 128 rows 0.82 to 1.22; at most as many wide tiles as multiprocessors 1.1 to 1.5.
TileShape tile_shape_for(const GmmProblem& problem, const DeviceLimits& limits);

// Groups of at most so many rows are bound by the bytes of their weights, larger ones by
// their products: where both may occur, they run side by side. 0 where the mean group
// is large, or the groups are too many for each block to look at all of them first.
// At 256 rows a group on average +1-2 % for random sizes, +4-5 % skewed, elsewhere 0 to
// +1 % (H200, 2026-11-22); walking 2, 4 or 8 groups side by side whatever their size
// lost 1-25 %, since their tiles share less in L2.
int small_rows_for(int64_t num_rows, int64_t num_groups);

// Whether a reduction is so long that blocks which share operands must stay in step to
// find them in L2: tiles of one length keep them so. K = 28672, random sizes: +9 %; at
// 14336 and below -1 to -2 % for the rows multiplied in vain (H200, 2026-11-22).
bool needs_equal_tiles(int64_t num_k);

// Whether tiles of the last, partial wave are cut in two by tokens: +0.5 %, up to 2 % where
// all groups have one size; cut in four they are no better (H200, 2026-11-23). Not where the
// groups are too many for each block to look at all of them first.
bool halves_last_wave(int64_t num_groups);

// An upper bound for any group sizes.
template <class Policy>
int64_t max_num_tiles(const GmmProblem& problem) {
  const int64_t num_rows = problem.out.size(0);
  return (num_rows / Policy::kTileTokens + base::min(problem.groups.num_groups, num_rows)) *
         base::ceil_div(problem.out.size(1), Policy::kTileFeatures);
}

// At the head of the workspace: the counters of claimed tiles, a cache line. None, and no launch
// to clear them, where there are at least as many blocks as tiles: each takes one at most.
inline constexpr int64_t kClaimsBytes = 128;

// Completes a plan whose policy and tile are chosen, for at most so many tiles.
void plan_blocks(GmmPlan& plan, int64_t max_tiles, int64_t max_blocks, const GroupSizes& groups);

}  // namespace gg::cuda::sm90
