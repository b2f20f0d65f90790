// M-grouped GEMM on Hopper: out[t] = weights[e] tokens[t] for the rows t of each
// group e; rows past the last group become zeros. Start reading at the kernel, at
// the end. Launched by launch.cu.
//
// The transposed tile, weights x tokens^T, is computed: weights are wgmma's A (m64
// = 64 output features), tokens its B, whose n goes in steps of 8. So the ragged
// end of a group costs a smaller n, not padding.
//
//   warp 0       producer: one thread tells the copy engine what to load
//   warp 1       scheduler: turns claimed numbers into tiles; zeroes the rows of no group
//   warps 4-     consumer warpgroups, 64 features each: multiply, store
//
// NaN or Inf of one group reaches no other: a tile's box of tokens may hold rows
// of the next group, but those are columns of their own in the product, and are
// never stored. Past K, N and T the copy engine fills in zeros.
#pragma once

#include "cuda/common/dependent_launch.cuh"
#include "cuda/gemm/sm90/descriptors.cuh"
#include "cuda/gemm/sm90/epilogue.cuh"
#include "cuda/gemm/sm90/producer.cuh"
#include "cuda/gemm/sm90/scheduler.cuh"
#include "cuda/gemm/sm90/wgmma.cuh"
#include "cuda/gemm/sm90/word_features.cuh"

namespace gg::cuda::sm90 {

// ---- multiply -----------------------------------------------------------------------------------

// One warpgroup.
template <class Policy, class Types, class Epilogue>
struct Consumer {
  Shared<Policy>& shared;
  const MGroupedArgs& args;
  const ConsumerPlace place;
  const int k_blocks;
  Epilogue epilogue;
  Cursor<Policy::kStages> at;
  Cursor<kTileRing> ring;

  static constexpr int kTransA = Types::kMajor == WeightMajor::kN ? 1 : 0;
  // An instruction multiplies 32 bytes of a row: k16, or k8 of tf32. From one to the next,
  // in the descriptor's units of 16 bytes: 16 rows, or 32 bytes.
  static constexpr int kInstructionBytes = 32;
  static constexpr uint64_t kStepA = (kTransA ? 16 * kRowBytes : kInstructionBytes) / 16;
  static constexpr uint64_t kStepB = kInstructionBytes / 16;

  __device__ __forceinline__ void wait_full() {
    ptx::mbarrier_wait(shared.full[at.slot], at.parity);
  }
  __device__ __forceinline__ void release(int slot) {
    if (place.lane == 0) ptx::mbarrier_arrive(shared.empty[slot]);
  }

  // The next tile, its first k-block loaded; or the end.
  __device__ __forceinline__ Tile next_tile() {
    ptx::mbarrier_wait(shared.tile_full[ring.slot], ring.parity);
    const Tile tile = read_by_first_lane(shared.tile[ring.slot]);
    if (!tile.is_end()) {
      if (place.lane == 0) ptx::mbarrier_arrive(shared.tile_read[ring.slot]);
      wait_full();
    }
    ring.next();
    return tile;
  }

  // Queues the multiplication of the k-block in the current slot.
  template <int kN, bool kFirst>
  __device__ __forceinline__ void multiply(float (&acc)[kN / 2]) {
    const uint32_t stage = ptx::shared_address(shared.stage[at.slot]);
    const uint32_t features = stage + place.warpgroup * kFeaturesPerConsumer * kRowBytes;
    const uint64_t tokens = operand_descriptor(stage + Shared<Policy>::kWeightBytes);
    if constexpr (Types::kWeightsByRegisters) {
      ptx::wgmma_wait<0>();  // the k-block before has read its registers
      FeatureWords<FeaturesByBanks> weights;
      weights.load(features, place.warp, place.lane);
      multiply_by_words<kN, kFirst>(acc, weights, tokens);
    } else {
      multiply_by_descriptors<kN, kFirst>(acc, operand_descriptor(features), tokens);
    }
    ptx::wgmma_commit();
  }

  template <int kN, bool kFirst>
  __device__ __forceinline__ static void multiply_by_words(
      float (&acc)[kN / 2], const FeatureWords<FeaturesByBanks>& weights, uint64_t tokens) {
    using Instruction = Wgmma<typename Types::In, kN>;
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < weights.kInstructions; ++k) {
      if (kFirst && k == 0) {
        Instruction::multiply(acc, weights.words[k], tokens);
      } else {
        Instruction::multiply_add(acc, weights.words[k], tokens + k * kStepB);
      }
    }
  }

  template <int kN, bool kFirst>
  __device__ __forceinline__ static void multiply_by_descriptors(float (&acc)[kN / 2], uint64_t a,
                                                                 uint64_t b) {
    using Instruction = Wgmma<typename Types::In, kN>;
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kRowBytes / kInstructionBytes; ++k) {
      if (kFirst && k == 0) {
        Instruction::template multiply<kTransA>(acc, a, b);
      } else {
        Instruction::template multiply_add<kTransA>(acc, a + k * kStepA, b + k * kStepB);
      }
    }
  }

  // Runs a tile of at most kN tokens and returns the next one. One k-block is
  // always being multiplied; what comes between two waits passes under it. (Of weights that
  // come by registers none is while they are loaded: the other warpgroup's is.)
  template <int kN>
  __device__ __forceinline__ Tile run_tile(const Tile& tile) {
    float acc[kN / 2];
    int previous = at.slot;
    multiply<kN, true>(acc);
    at.next();
    const auto next_k_block = [&] {
      const int slot = at.slot;
      wait_full();
      multiply<kN, false>(acc);
      ptx::wgmma_wait<1>();
      release(previous);
      previous = slot;
      at.next();
    };
    int kb = 1;
    if (epilogue.has_kept()) {  // a branch: the block's first tile needs less of the code
#pragma unroll
      for (int s = 0; s < Epilogue::kSteps; ++s) {
        if (s > 0 && s < k_blocks) next_k_block();
        epilogue.step(s);
      }
      kb = Epilogue::kSteps;
    }
    for (; kb < k_blocks; ++kb) next_k_block();
    epilogue.finish();
    const Tile next = next_tile();  // all that comes after it is exposed
    ptx::wgmma_wait<0>();
    release(previous);
    epilogue.template take<kN>(acc, tile);
    return next;
  }

  // All of this warpgroup's features lie past the last one: the ring goes on.
  __device__ __forceinline__ Tile skip_tile() {
    for (int kb = 0; kb < k_blocks; ++kb, at.next()) {
      wait_full();
      __syncwarp();
      release(at.slot);
    }
    return next_tile();
  }

  // run_tile for the tile's length, found by bisection.
  template <int kLeast, int kMost>
  __device__ __forceinline__ Tile run_tile_of_length(const Tile& tile) {
    if constexpr (kLeast == kMost) {
      return run_tile<kLeast * Policy::kTokenStep>(tile);
    } else {
      constexpr int kMiddle = (kLeast + kMost) / 2;
      if (tile.steps() <= kMiddle) return run_tile_of_length<kLeast, kMiddle>(tile);
      return run_tile_of_length<kMiddle + 1, kMost>(tile);
    }
  }

  __device__ __forceinline__ void run() {
    Tile tile = next_tile();
    while (!tile.is_end()) {
      if (place.first_feature(tile) >= args.num_n) {
        tile = skip_tile();
      } else {
        tile = run_tile_of_length<1, Policy::kTileTokens / Policy::kTokenStep>(tile);
      }
    }
#pragma unroll
    for (int s = 0; s < Epilogue::kSteps; ++s) epilogue.step(s);
    epilogue.finish();
    epilogue.drain();
  }
};

// ---- the kernel ---------------------------------------------------------------------------------

template <class Policy, class Types, class Epilogue>
__global__ void __launch_bounds__(kThreadsOf<Policy>, Policy::kRegisterBlocks)
    m_grouped_gemm(const __grid_constant__ MGroupedArgs args) {
  extern __shared__ uint8_t shared_bytes[];
  Shared<Policy>& shared = *reinterpret_cast<Shared<Policy>*>(shared_bytes);
  if (threadIdx.x == 0) {
    if (ptx::shared_address(shared_bytes) % alignof(Shared<Policy>) != 0) __trap();
    init_barriers(shared);
  }
  __syncthreads();

  const int warp = __shfl_sync(kWholeWarp, static_cast<int>(threadIdx.x / 32), 0);
  if (warp < kWarpgroup / 32) {
    ptx::give_registers<Policy::kProducerRegisters>();
    if (warp == 0 && ptx::elect()) produce<Policy, Types>(shared, args);
    if (warp == 1) {
      cuda::ptx::wait_for_previous_kernel();  // of sizes and counters; all else follows from a tile
      const int last_row = Scheduler<Policy>{shared, args}.run();
      zero_rows<typename Epilogue::Out>(args, last_row, lane_index());
    }
  } else {
    ptx::take_registers<Policy::kConsumerRegisters>();
    const ConsumerPlace place{Policy::kTileFeatures, warp / 4 - 1, warp % 4, lane_index()};
    const int k_blocks = divide_up(args.num_k, Policy::kTileK);
    Consumer<Policy, Types, Epilogue>{shared, args, place, k_blocks,
                                      Epilogue(args, place, shared.pieces[place.warpgroup])}
        .run();
  }
}

}  // namespace gg::cuda::sm90
