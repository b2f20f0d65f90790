// Where everything of a slice lies in shared memory, and which lane needs what: plain integer
// functions, which tests/cpp/cuda/gemm/sm80/place_test.cc walks through on the host. Two
// layouts, 16-byte chunks permuted within each 128 bytes so that eight lanes which store or
// read together never meet in a bank:
//
//   k-major   [tile extent][128 bytes of reduction]; chunk c of row r lies at c ^ r % 8
//   mn-major  [64 or 32 steps of reduction][tile extent]; chunk c of step k lies at c ^ k % 8,
//             or c ^ 2 (k % 4) for 32-bit elements, whose lanes read single words
//
// Warps: 2 along the rows of the output tile, whose blocks of 16 they take in turn (so that a
// short tile costs both the same), and one for each kWarpColumns of its columns.
#pragma once

#include <cstdint>

#include "base/math.h"
#include "cuda/gemm/sm80/policy.h"

namespace gg::cuda::sm80 {

inline constexpr int kSteps = 4;  // of 32 bytes of reduction: a mma's

// Which part of the output tile a thread's warp multiplies, and the thread's lane.
struct Place {
  int row_warp;
  int column_warp;
  int lane;

  template <int kThreads>
  GG_HOST_DEVICE static Place of(int thread) {
    constexpr int kColumnWarps = kThreads / 32 / kRowWarps;
    return {thread / 32 / kColumnWarps, thread / 32 % kColumnWarps, thread % 32};
  }
  // First row in the tile of this warp's block f.
  GG_HOST_DEVICE int row_block(int f) const { return (f * kRowWarps + row_warp) * 16; }
};

// One operand's slice, k-major. kExtent: its rows. kThreads: those of the block that copies it.
template <int kElementBytes, int kExtent, int kThreads>
struct KMajorPlace {
  static constexpr int kBytes = kExtent * kSliceBytes;
  static constexpr int kChunks = kSliceBytes / 16;         // of a row
  static constexpr int kRowsPerPass = kThreads / kChunks;  // that all threads copy at once
  static constexpr int kPasses = kExtent / kRowsPerPass;
  static constexpr int kPassBytes = kRowsPerPass * kSliceBytes;

  // Where a thread's chunk of pass 0 goes; the others follow at kPassBytes.
  GG_HOST_DEVICE static int copy_target(int thread) {
    const int row = thread / kChunks, chunk = thread % kChunks;
    return row * kSliceBytes + ((chunk ^ row % 8) * 16);
  }

  // Matrices of a 16-row fragment of the left operand: rows 0-7 and 8-15, then both again 16
  // bytes further. (fragment row 0 and step 0; see left and right)
  GG_HOST_DEVICE static int left_lane(const Place& at) {
    const int row = at.row_block(0) + at.lane % 16;
    return row * kSliceBytes + (((at.lane / 16) ^ row % 8) * 16);
  }
  GG_HOST_DEVICE static int left(int lane_offset, int step, int f) {
    return (lane_offset ^ (step * 32)) + f * (16 * kRowWarps * kSliceBytes);
  }

  // Of 16 columns of the right one: columns 0-7, the same 16 bytes further, then 8-15.
  GG_HOST_DEVICE static int right_lane(const Place& at) {
    const int row = at.column_warp * kWarpColumns + at.lane / 16 * 8 + at.lane % 8;
    return row * kSliceBytes + (((at.lane / 8 % 2) ^ row % 8) * 16);
  }
  GG_HOST_DEVICE static int right(int lane_offset, int step, int pair) {
    return (lane_offset ^ (step * 32)) + pair * (16 * kSliceBytes);
  }
};

// One operand's slice, mn-major. kExtent: the elements of a step.
template <int kElementBytes, int kExtent, int kThreads>
struct MnMajorPlace {
  static constexpr int kStepsOfReduction = kSliceBytes / kElementBytes;
  static constexpr int kStepBytes = kExtent * kElementBytes;
  static constexpr int kBytes = kStepsOfReduction * kStepBytes;
  static constexpr int kChunks = kStepBytes / 16;          // of a step
  static constexpr int kRowsPerPass = kThreads / kChunks;  // steps that all threads copy at once
  static constexpr int kPasses = kStepsOfReduction / kRowsPerPass;
  static constexpr int kPassBytes = kRowsPerPass * kStepBytes;
  static constexpr int kPeriod = kElementBytes == 2 ? 8 : 4;  // of the permutation
  static_assert(kRowsPerPass % kPeriod == 0, "a thread's chunks of all passes share it");

  GG_HOST_DEVICE static int permuted(int k, int chunk) {
    return chunk ^ (k % kPeriod * (8 / kPeriod));
  }
  GG_HOST_DEVICE static int copy_target(int thread) {
    const int k = thread / kChunks, chunk = thread % kChunks;
    return k * kStepBytes + permuted(k, chunk) * 16;
  }

  // 16 bits, by transposed matrices: k 0-7 of rows 0-7 and 8-15, then k 8-15 of both.
  // 32 bits, word by word: k = lane % 4, row lane / 4.
  GG_HOST_DEVICE static int left_lane(const Place& at) {
    if constexpr (kElementBytes == 2) {
      const int k = at.lane / 16 * 8 + at.lane % 8;
      return k * kStepBytes + permuted(k, at.row_block(0) / 8 + at.lane / 8 % 2) * 16;
    } else {
      return word(at.lane % 4, at.row_block(0) + at.lane / 4);
    }
  }
  GG_HOST_DEVICE static int left(int lane_offset, int step, int f) {
    const int k = step * (kElementBytes == 2 ? 16 : 8);
    const int bytes = f * 16 * kRowWarps * kElementBytes;
    return (lane_offset ^ bytes % 128) + bytes / 128 * 128 + k * kStepBytes;
  }

  // 16 bits: k 0-7 and 8-15 of columns 0-7, then of 8-15. 32 bits as above.
  GG_HOST_DEVICE static int right_lane(const Place& at) {
    const int column = at.column_warp * kWarpColumns;
    if constexpr (kElementBytes == 2) {
      const int k = at.lane / 8 % 2 * 8 + at.lane % 8;
      return k * kStepBytes + permuted(k, column / 8 + at.lane / 16) * 16;
    } else {
      return word(at.lane % 4, column + at.lane / 4);
    }
  }
  GG_HOST_DEVICE static int right(int lane_offset, int step, int pair) {
    const int k = step * (kElementBytes == 2 ? 16 : 8);
    const int bytes = pair * 16 * kElementBytes;
    return (lane_offset ^ bytes % 128) + bytes / 128 * 128 + k * kStepBytes;
  }

  // 32 bits: from a lane's word to that of the row (or column) 8 further, and 4 steps of k further.
  GG_HOST_DEVICE static int eight_further(int offset) { return offset ^ (8 * kElementBytes); }
  static constexpr int kFourSteps = 4 * kStepBytes;

 private:
  GG_HOST_DEVICE static int word(int k, int element) {
    return k * kStepBytes + permuted(k, element / 4) * 16 + element % 4 * 4;
  }
};

}  // namespace gg::cuda::sm80
