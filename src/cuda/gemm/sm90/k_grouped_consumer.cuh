// How a K-grouped tile of 16-bit operands is multiplied. One warp of a consumer warpgroup; called
// by k_grouped.cuh.
#pragma once

#include "cuda/gemm/sm90/descriptors.cuh"
#include "cuda/gemm/sm90/k_grouped_add_epilogue.cuh"
#include "cuda/gemm/sm90/k_grouped_rings.cuh"
#include "cuda/gemm/sm90/wgmma.cuh"

namespace gg::cuda::sm90 {

template <class Policy, typename In, class TileEpilogue>
struct KGroupedConsumer : KGroupedRings<KGroupedShared<Policy>> {
  using Memory = KGroupedShared<Policy>;
  using Epilogue = TileEpilogue;
  using Rings = KGroupedRings<Memory>;
  using Rings::at;
  using Rings::next_tile;
  using Rings::release;
  using Rings::shared;
  using Rings::wait_full;

  const KGroupedArgs& args;
  const int consumer_warp;
  Epilogue epilogue;
  const int warpgroup = consumer_warp / 4;
  const int warp = consumer_warp % 4;  // within the warpgroup, the same value in all its lanes

  static constexpr int kAccumulators = Policy::kTileColumns / 2;  // of the widest tile
  static constexpr int kSteps = Policy::kTileK / 16;
  static constexpr uint64_t kDescriptorStep = 16 * kRowBytes / 16;  // 16 token rows, in 16 bytes

  __device__ __forceinline__ uint64_t left_descriptor() const {
    const uint32_t stage = ptx::shared_address(shared.stage[at.slot]);
    return feature_major_descriptor(stage + warpgroup * Memory::kBoxBytes, Memory::kBoxBytes);
  }
  __device__ __forceinline__ uint64_t right_descriptor() const {
    const uint32_t stage = ptx::shared_address(shared.stage[at.slot]);
    return feature_major_descriptor(stage + Memory::kLeftBytes, Memory::kBoxBytes);
  }

  // Runs a tile of at most kWidth columns whose group is not empty, and returns the
  // next one. One k-block is always being multiplied; what comes between two waits
  // passes under it. NOTE: wgmma's fence stands in the same basic block as wgmma, and
  // all widths share the accumulators: otherwise ptxas serializes and spills.
  template <int kWidth>
  __device__ __forceinline__ KGroupedTile run_tile(float (&all)[kAccumulators],
                                                   const KGroupedTile& tile,
                                                   const WarpPlace& place) {
    using Instruction = Wgmma<In, kWidth>;
    float (&acc)[kWidth / 2] = reinterpret_cast<float (&)[kWidth / 2]>(all);
    const int full_blocks = tile.rows / Policy::kTileK;
    const int rest = tile.rows - full_blocks * Policy::kTileK;
    int keeps = 0;  // 0 at the first multiplication, which sets acc
    int previous = 0;
    for (int kb = 0; kb < full_blocks; ++kb) {
      wait_full();
      const uint64_t left = left_descriptor(), right = right_descriptor();
      ptx::wgmma_fence();
#pragma unroll
      for (int k16 = 0; k16 < kSteps; ++k16) {
        Instruction::multiply_both(acc, left + k16 * kDescriptorStep, right + k16 * kDescriptorStep,
                                   k16 > 0 ? 1 : keeps);
      }
      ptx::wgmma_commit();
      keeps = 1;
      ptx::wgmma_wait<1>();
      if (kb > 0) release(previous);
      epilogue.step(place);
      previous = at.slot;
      at.next();
    }
    if (rest > 0) {  // only the steps of 16 that hold rows
      wait_full();
      const uint64_t left = left_descriptor(), right = right_descriptor();
#pragma unroll 1
      for (int k16 = (Policy::kTileK - rest) / 16; k16 < kSteps; ++k16) {
        ptx::wgmma_fence();
        Instruction::multiply_both(acc, left + k16 * kDescriptorStep, right + k16 * kDescriptorStep,
                                   keeps);
        ptx::wgmma_commit();
        keeps = 1;
      }
      if (full_blocks > 0) {
        // NOTE: up to four batches of the rest were queued after the block before it.
        ptx::wgmma_wait<1>();
        release(previous);
      }
      epilogue.step(place);
      previous = at.slot;
      at.next();
    }
    const KGroupedTile next = next_tile();  // all that comes after it is exposed
    ptx::wgmma_wait<0>();
    release(previous);
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) ptx::pin(acc[i]);
    epilogue.finish();
    epilogue.template take<kWidth>(acc, place);
    return next;
  }

  // All of this warpgroup's rows lie past the last one: the ring goes on. NOTE: what is kept of
  // the tile before must not stay: the courier waits for it before it reads another tile, and the
  // scheduler hands out none that the courier has not read.
  __device__ __forceinline__ KGroupedTile skip_tile(const KGroupedTile& tile) {
    for (int k = 0; k < tile.rows; k += Policy::kTileK, at.next()) {
      wait_full();
      __syncwarp();
      release(at.slot);
    }
    epilogue.finish();
    return next_tile();
  }

  __device__ __forceinline__ KGroupedTile run_tile_of_any_width(float (&all)[kAccumulators],
                                                                const KGroupedTile& tile) {
    const int row = tile.out_row + warpgroup * 64;
    const WarpPlace place{tile.expert, row + warp * kWarpRows, tile.out_column, tile.columns};
    if (row >= args.out_rows) return skip_tile(tile);
    if (tile.rows == 0) {
      epilogue.zero(place);
      return next_tile();
    }

    if (tile.columns <= 64) return run_tile<64>(all, tile, place);
    if (tile.columns <= 128) return run_tile<128>(all, tile, place);
    if constexpr (Policy::kTileColumns == 192) {
      return run_tile<192>(all, tile, place);
    } else {
      if (tile.columns <= 192) return run_tile<192>(all, tile, place);
      return run_tile<256>(all, tile, place);
    }
  }

  __device__ __forceinline__ void run() {
    KGroupedTile tile = next_tile();
    float all[kAccumulators];
    while (!tile.is_end()) tile = run_tile_of_any_width(all, tile);
    epilogue.finish();
    epilogue.drain();
  }
};

}  // namespace gg::cuda::sm90
