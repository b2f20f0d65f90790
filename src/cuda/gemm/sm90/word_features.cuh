// The left operand, of 32 bits, whose features lie side by side: weights of dgrad, and wgrad's, in
// tf32. wgmma reads such operands from shared memory along the reduction alone, so each warp
// brings its 16 features to registers itself.
#pragma once

#include "cuda/gemm/sm90/feature_order.h"
#include "cuda/gemm/sm90/pipeline.cuh"

namespace gg::cuda::sm90 {

// Instruction k of a k-block multiplies steps 8 k to 8 k + 7; this thread supplies, in
// words[k][i + 2 j], step 8 k + Order::step(l, j) of feature Order::of(w, l, i).
template <class Order>
struct FeatureWords {
  static constexpr int kInstructions = 4;
  uint32_t words[kInstructions][4];

  // `features`: the warpgroup's part of the stage, boxes of [32 steps][32 features].
  __device__ __forceinline__ void load(uint32_t features, int warp, int lane) {
    constexpr int kBoxFeatures = kRowElements<float>;
    constexpr int kBoxBytes = kBoxFeatures * kRowBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int feature = Order::of(warp, lane, i);
      const uint32_t box = features + feature / kBoxFeatures * kBoxBytes;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int step = Order::step(lane, j);
        const int chunk = feature % kBoxFeatures / 4 ^ step;
        const uint32_t address = box + step * kRowBytes + chunk * 16 + feature % 4 * 4;
#pragma unroll
        for (int k = 0; k < kInstructions; ++k) {
          words[k][i + 2 * j] = ptx::load_word(address + k * 8 * kRowBytes);
        }
      }
    }
  }
};

}  // namespace gg::cuda::sm90
