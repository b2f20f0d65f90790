// The M-grouped kernel's producer: one thread that tells the copy engine which k-blocks of weights
// and tokens to bring into the ring of stages, tile after tile.
#pragma once

#include "cuda/gemm/sm90/pipeline.cuh"

namespace gg::cuda::sm90 {

template <typename T, WeightMajor kWeightMajor>
struct OperandTypes {
  using In = T;
  static constexpr WeightMajor kMajor = kWeightMajor;
  static constexpr bool kWeightsByRegisters =
      sizeof(T) == 4 && kWeightMajor == WeightMajor::kN;  // word_features.cuh
};

// One k-block: weights, and tokens as a sum of boxes whose lengths are powers of two.
template <class Policy, class Types>
__device__ __forceinline__ void load_stage(Shared<Policy>& shared, const MGroupedArgs& args,
                                           const Tile& tile, int slot, int k) {
  const uint64_t& full = shared.full[slot];
  const uint32_t weights = ptx::shared_address(shared.stage[slot]);
  uint32_t tokens = weights + Shared<Policy>::kWeightBytes;
  const int feature = tile.feature_tile * Policy::kTileFeatures;
  constexpr int kStepBytes = Policy::kTokenStep * kRowBytes;
  ptx::mbarrier_arrive_expect(full, Shared<Policy>::kWeightBytes + tile.steps() * kStepBytes);
  if constexpr (Types::kMajor == WeightMajor::kK) {
    ptx::load_3d(weights, args.weights, full, k, feature, tile.expert());
  } else {
#pragma unroll
    for (int f = 0; f < Policy::kTileFeatures; f += kRowElements<typename Types::In>) {
      ptx::load_3d(weights + f * kRowBytes, args.weights, full, feature + f, k, tile.expert());
    }
  }
  int row = tile.row0;
#pragma unroll
  for (int box = kTokenBoxes - 1; box >= 0; --box) {
    if (tile.steps() >> box & 1) {
      ptx::load_2d(tokens, args.tokens[box], full, k, row);
      tokens += kStepBytes << box;
      row += Policy::kTokenStep << box;
    }
  }
}

// One thread.
template <class Policy, class Types>
__device__ __forceinline__ void produce(Shared<Policy>& shared, const MGroupedArgs& args) {
  ptx::prefetch_tensor_map(args.weights);
#pragma unroll
  for (int box = 0; box < kTokenBoxes; ++box) ptx::prefetch_tensor_map(args.tokens[box]);
  const int k_blocks = divide_up(args.num_k, Policy::kTileK);
  Cursor<Policy::kStages> at;
  for (Cursor<kTileRing> ring;; ring.next()) {
    ptx::mbarrier_wait(shared.tile_full[ring.slot], ring.parity);
    const Tile tile = shared.tile[ring.slot];
    if (tile.is_end()) return;
    for (int kb = 0; kb < k_blocks; ++kb, at.next()) {
      if (kb == max(k_blocks - Policy::kClaimLead, 0)) {
        ptx::mbarrier_arrive(shared.tile_read[ring.slot]);
      }
      ptx::mbarrier_wait(shared.empty[at.slot], at.parity ^ 1);
      load_stage<Policy, Types>(shared, args, tile, at.slot, kb * Policy::kTileK);
    }
  }
}

}  // namespace gg::cuda::sm90
