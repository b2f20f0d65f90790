// Which of its warpgroup's 64 features a consumer's thread holds in its accumulators: plain
// integer functions, which tests/cpp/cuda/gemm/sm90/feature_order_test.cc walks through.
//
//   of(warp, lane, i)   that of rows l / 4 + 8 i of the warp's 16, i = 0 and 1
#pragma once

#include "base/math.h"

namespace gg::cuda::sm90 {

struct FeaturesInOrder {
  GG_HOST_DEVICE static int of(int warp, int lane, int i) { return warp * 16 + lane / 4 + 8 * i; }
};

// For weights that come by registers (word_features.cuh). Two warps share rows of 128 bytes, 32
// features of 32 bits, in the 128-byte swizzle: chunk c of 16 bytes lies at c ^ row % 8. Each
// takes two chunks for each i, which differ in their first and third bits: so its 32 lanes never
// meet in a bank, neither when they read a feature of four rows (of weights: steps of K) nor
// when they write one of four rows in steps of two (of the output: tokens).
struct FeaturesByBanks {
  GG_HOST_DEVICE static int of(int warp, int lane, int i) {
    const int chunk = (warp % 2 + 2 * i) ^ (lane / 16 * 5);
    return warp / 2 * 32 + chunk * 4 + lane / 4 % 4;
  }
};

}  // namespace gg::cuda::sm90
