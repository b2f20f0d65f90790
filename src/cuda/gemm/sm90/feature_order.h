// Which of its warpgroup's 64 features a consumer's thread holds in its accumulators: plain
// integer functions, which tests/cpp/cuda/gemm/sm90/feature_order_test.cc walks through.
//
//   of(warp, lane, i)   that of rows l / 4 + 8 i of the warp's 16, i = 0 and 1
//
// and, where it brings the features to registers itself (word_features.cuh), which of the eight
// steps of an instruction's reduction it brings:
//
//   step(lane, j)       that of column l % 4 + 4 j, j = 0 and 1
//
// Features then lie in rows of 128 bytes, one for each step, 32 of 32 bits in the 128-byte
// swizzle: chunk c of 16 bytes lies at c ^ row % 8. No two lanes of a warp may meet in a bank.
#pragma once

#include "base/math.h"

namespace gg::cuda::sm90 {

// Lanes read two neighbouring chunks of four rows that are two apart. The other operand must have
// its steps in the same order.
struct FeaturesInOrder {
  GG_HOST_DEVICE static int of(int warp, int lane, int i) { return warp * 16 + lane / 4 + 8 * i; }
  GG_HOST_DEVICE static int step(int lane, int j) { return lane % 4 * 2 + j; }
};

// Steps in order, as the copy engine brings the other operand's. Two warps share a row; each takes
// two chunks for each i, which differ in their first and third bits. So its lanes do not meet
// either where they write a feature of four rows that are two apart: tokens of the output.
struct FeaturesByBanks {
  GG_HOST_DEVICE static int of(int warp, int lane, int i) {
    const int chunk = (warp % 2 + 2 * i) ^ (lane / 16 * 5);
    return warp / 2 * 32 + chunk * 4 + lane / 4 % 4;
  }
  GG_HOST_DEVICE static int step(int lane, int j) { return lane % 4 + 4 * j; }
};

}  // namespace gg::cuda::sm90
