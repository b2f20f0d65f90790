// Where the elements of an operand's tile lie in shared memory, which thread brings them
// there, and which addresses a warp's lanes read from: index arithmetic alone, so that
// tests walk it without a GPU.
//
// A tile is [outer, steps]: the rows of out that it makes (or columns) x kTileK steps of
// the reduction. It lies in shared memory as it lies in global memory, contiguous along
// one or the other; fragments are read from both. Rows begin an odd number of 16 bytes
// apart, so that 8 neighbouring rows begin in different banks, and every instruction
// takes its 8 x 16 bytes of a row or of a column at once.
#pragma once

#include "base/math.h"
#include "cuda/gemm/sm70/policy.h"

namespace gg::cuda::sm70 {

// The dimension along which an operand is contiguous.
enum class Major { kReduction, kOuter };

inline constexpr int kChunk = 8;   // elements of a 16-byte load or store
inline constexpr int kPatch = 16;  // a fragment has 16 outer x 16 steps

template <int kOuter, Major kMajor, int kThreads>
struct TileLayout {
  static constexpr Major kContiguous = kMajor;
  static constexpr int kPitch = (kMajor == Major::kReduction ? kTileK : kOuter) + kPad;
  static constexpr int kElements = (kMajor == Major::kReduction ? kOuter : kTileK) * kPitch;
  static constexpr int kNumChunks = kOuter * kTileK / kChunk;
  static constexpr int kChunksPerThread = kNumChunks / kThreads;
  static_assert(kPitch / kChunk % 2 == 1 && kPitch % kChunk == 0);
  static_assert(kChunksPerThread * kThreads == kNumChunks && kTileK == 4 * kChunk);

  static GG_HOST_DEVICE constexpr int offset(int outer, int step) {
    return kMajor == Major::kReduction ? outer * kPitch + step : step * kPitch + outer;
  }

  // The first element of chunk 0 ... kNumChunks - 1. 8 neighbouring threads store their
  // chunks in one step: 8 rows of one column of chunks (the warp reads 64 bytes of each of
  // 8 rows), or 8 neighbours of a row.
  static GG_HOST_DEVICE constexpr int outer_of(int chunk) {
    return kMajor == Major::kReduction ? chunk / 32 * 8 + chunk % 8
                                       : chunk % (kOuter / kChunk) * kChunk;
  }
  static GG_HOST_DEVICE constexpr int step_of(int chunk) {
    return kMajor == Major::kReduction ? chunk % 32 / 8 * kChunk : chunk / (kOuter / kChunk);
  }

  // The row of 8 elements that a lane names to ldmatrix, in elements from a patch's first
  // one: lanes 0-7 those of outer 0-7 and steps 0-7, 8-15 of outer 8-15, then the same of
  // steps 8-15. Where the tile is contiguous along outer, these rows hold 8 of it at one
  // step, and ldmatrix transposes.
  static GG_HOST_DEVICE constexpr int lane_offset(int lane) {
    const int row = lane % 8;
    const int outer = lane / 8 % 2 * 8;
    const int step = lane / 16 * 8;
    return kMajor == Major::kReduction ? offset(outer + row, step) : offset(outer, step + row);
  }
};

// Where mma.sync m16n8k8 leaves element (row, column) of its 16 x 8 sums: two neighbouring
// columns in a lane, and the same 8 rows below.
GG_HOST_DEVICE constexpr int sum_row(int lane, int value) { return lane / 4 + value / 2 * 8; }
GG_HOST_DEVICE constexpr int sum_column(int lane, int value) { return lane % 4 * 2 + value % 2; }

}  // namespace gg::cuda::sm70
