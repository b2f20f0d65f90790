// How fast, never what: the closed menu of tile shapes, and the pure host functions that
// say whether a problem can run here and which tile it takes. They touch no device, so they
// are tested without one. No CUDA in this header.
#pragma once

#include <string_view>

#include "grouped_gemm/gmm.h"

namespace gg::cuda::sm70 {

// Reduction steps in a tile of an operand. There is no cp.async here: while one tile is
// multiplied, the next is on its way through registers to the other of two buffers.
inline constexpr int kTileK = 32;
inline constexpr int kBuffers = 2;
// Rows of a tile in shared memory begin so many elements further apart than they are long:
// layout.h says why.
inline constexpr int kPad = 8;
// What finding a block's rows takes of shared memory (group_rows.cuh): 2432 bytes among 256
// threads, as ptxas says.
inline constexpr int64_t kSharedBytesForGroups = 3072;

// An output tile: rows (tokens, or the features that are out's rows) x columns, cut among
// kWarpRows x kWarpColumns warps.
template <int kRows, int kColumns, int kWarpsDown, int kWarpsAcross>
struct TilePolicy {
  static constexpr int kTileRows = kRows;
  static constexpr int kTileColumns = kColumns;
  static constexpr int kWarpRows = kWarpsDown;
  static constexpr int kWarpColumns = kWarpsAcross;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * 32;

  // Rows of kTileK elements or, where they lie the other way, kTileK rows: the larger.
  static constexpr int64_t kBufferElements = kRows * (kTileK + kPad) + kColumns * (kTileK + kPad);
  static constexpr int64_t kSharedBytes = kBuffers * kBufferElements * 2;
};

// Untuned: no Volta or Turing was at hand (2026-11-22). By count: a warp's share of 64 x 64
// makes 16 products of each byte it reads from shared memory, 64 x 32 makes 10.7, 32 x 32
// makes 8; a multiprocessor of these generations makes 512 products while it reads at most
// 128 bytes.
using Wide = TilePolicy<256, 128, 4, 2>;     // 60 KB: not where a block gets 48 KB
using General = TilePolicy<128, 128, 2, 4>;  // 40 KB
using Small = TilePolicy<64, 64, 2, 2>;      // 20 KB

// function(Wide{}), (General{}) or (Small{}), whose tile the plan's policy names.
template <typename Function>
void with_policy(const GmmPolicy& policy, const Function& function) {
  if (policy.tile_m == Wide::kTileRows) return function(Wide{});
  if (policy.tile_m == General::kTileRows) return function(General{});
  return function(Small{});
}

// The largest tile that the device has shared memory for, whose tiles are enough to keep
// every multiprocessor busy, and that does not waste too much of itself on the ends of
// groups of so many rows on average.
GmmPolicy choose_m_grouped(int64_t num_rows, int64_t num_groups, int64_t num_n,
                           const DeviceLimits& limits);

// The same for out [E, rows, columns], where nothing is ragged but the reduction.
GmmPolicy choose_k_grouped(int64_t num_groups, int64_t out_rows, int64_t out_columns,
                           const DeviceLimits& limits);

// Which dimension of the weights [E, N, K] is contiguous.
enum class WeightMajor { kK, kN };
WeightMajor major_of(const GmmProblem& problem);

}  // namespace gg::cuda::sm70
