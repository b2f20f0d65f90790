// How a K-grouped tile of fp32 operands is multiplied as tf32. wgmma reads 32-bit operands along
// the reduction alone, and both lie across it. So each warp brings its part of the left one to
// registers (word_features.cuh), and all warps together turn the right one, box by box, in shared
// memory, while the k-block before is multiplied. Shared memory bounds that at two thirds of the
// tensor cores' rate (benchmarks/NOTES.md, "tf32 on Hopper", counts its accesses).
#pragma once

#include <type_traits>

#include "cuda/gemm/sm90/descriptors.cuh"
#include "cuda/gemm/sm90/k_grouped_epilogue.cuh"
#include "cuda/gemm/sm90/k_grouped_rings.cuh"
#include "cuda/gemm/sm90/wgmma.cuh"
#include "cuda/gemm/sm90/word_features.cuh"

namespace gg::cuda::sm90 {

template <class Policy>
struct KGroupedTf32Shared : KGroupedShared<Policy> {
  // The right operand of the running k-block and of the next one, [column][32 steps], swizzled.
  alignas(1024) uint8_t turned[2][Policy::kTileColumns * kRowBytes];
};

// One warp.
template <class Policy, class TileEpilogue>
struct KGroupedTf32Consumer : KGroupedRings<KGroupedTf32Shared<Policy>> {
  using Memory = KGroupedTf32Shared<Policy>;
  using Epilogue = TileEpilogue;
  using Rings = KGroupedRings<Memory>;
  using Rings::at;
  using Rings::next_tile;
  using Rings::release;
  using Rings::shared;
  using Rings::wait_full;

  const KGroupedArgs& args;
  const int warp;  // of all consumers
  Epilogue epilogue;
  int buffer = 0;  // of shared.turned

  static constexpr int kAccumulators = Policy::kTileColumns / 2;  // of the widest tile
  static_assert(Policy::kTileColumns / Policy::kBoxFeatures == Memory::kConsumerWarps,
                "a warp turns a box");

  // This warp's box [32 steps][32 columns] of the right operand becomes [32 columns][32 steps],
  // the steps of each instruction in the order of FeaturesInOrder. A lane takes a column, of
  // which it writes four steps at once: chunk c of row r lies at c ^ r % 8 before and after.
  __device__ __forceinline__ void turn(uint32_t box, uint32_t turned) const {
    const int column = lane_index();
    const uint32_t from = box + column * 4;  // in row 0
    const uint32_t to = turned + column * kRowBytes + column % 8 * 16;
#pragma unroll
    for (int chunk = 0; chunk < kRowBytes / 16; ++chunk) {
      uint32_t words[4];
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const int step = chunk / 2 * 8 + FeaturesInOrder::step(t, chunk % 2);
        words[t] = ptx::load_word((from ^ step % 8 * 16) + step * kRowBytes);
      }
      ptx::store_4_words(to ^ chunk * 16, words);
    }
  }

  // Calls `run` with the least width that a tile of so many columns fits into.
  template <class Run>
  __device__ __forceinline__ static void with_width(int columns, const Run& run) {
    if (columns <= 64) return run(std::integral_constant<int, 64>{});
    if (columns <= 128) return run(std::integral_constant<int, 128>{});
    if (columns <= 192) return run(std::integral_constant<int, 192>{});
    run(std::integral_constant<int, 256>{});
  }
  template <int kWidth>
  __device__ __forceinline__ static auto& of_width(float (&all)[kAccumulators]) {
    return reinterpret_cast<float (&)[kWidth / 2]>(all);
  }

  // The k-block in the current slot, as soon as the one before is multiplied. NOTE: the buffer
  // was read by the k-block two before, which all warps waited for ahead of the last barrier.
  __device__ __forceinline__ void multiply(float (&all)[kAccumulators], int columns, bool keeps) {
    wait_full();
    const uint32_t stage = ptx::shared_address(shared.stage[at.slot]);
    const uint32_t turned = ptx::shared_address(shared.turned[buffer]);
    if (warp * Policy::kBoxFeatures < columns) {
      turn(stage + Memory::kLeftBytes + warp * Memory::kBoxBytes,
           turned + warp * Policy::kBoxFeatures * kRowBytes);
    }
    ptx::fence_proxy_async();
    ptx::wgmma_wait<0>();
    FeatureWords<FeaturesInOrder> left;
    left.load(stage + warp / 4 * (64 * kRowBytes), warp % 4, lane_index());
    ptx::named_barrier(1, Memory::kConsumerWarps * 32);
    release(at.slot);
    const uint64_t right = operand_descriptor(turned);
    with_width(columns, [&](auto width) {
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < left.kInstructions; ++k) {
        Wgmma<float, width()>::multiply_keeping(of_width<width()>(all), left.words[k],
                                                right + k * (32 / 16), keeps || k > 0 ? 1 : 0);
      }
      ptx::wgmma_commit();
    });
    buffer ^= 1;
    at.next();
  }

  // A tile whose group is not empty; returns the next one. Rows past the last one are multiplied,
  // too, and not stored: every warp is needed to turn boxes.
  __device__ __forceinline__ KGroupedTile run_tile(float (&all)[kAccumulators],
                                                   const KGroupedTile& tile,
                                                   const WarpPlace& place) {
    for (int k = 0; k < tile.rows; k += Policy::kTileK) {
      multiply(all, tile.columns, k > 0);
      epilogue.step(place);
    }
    const KGroupedTile next = next_tile();  // all that comes after it is exposed
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) ptx::pin(all[i]);
    epilogue.finish();
    with_width(tile.columns,
               [&](auto width) { epilogue.template take<width()>(of_width<width()>(all), place); });
    return next;
  }

  __device__ __forceinline__ void run() {
    KGroupedTile tile = next_tile();
    float all[kAccumulators] = {};
    while (!tile.is_end()) {
      const WarpPlace place{tile.expert, tile.out_row + warp * kWarpRows, tile.out_column,
                            tile.columns};
      if (tile.rows > 0) {
        tile = run_tile(all, tile, place);
      } else {
        epilogue.zero(place);
        tile = next_tile();
      }
    }
    epilogue.finish();
    epilogue.drain();
  }
};

}  // namespace gg::cuda::sm90
