// K-grouped GEMM on Hopper: out[e] = left^T right over the rows of each group e,
// where left and right are dy and the tokens, or the other way round (args.h). Start
// reading at the kernel, at the end. Launched by k_grouped_launch.cu.
//
//   warp 0       producer: one thread tells the copy engine what to load
//   warp 1       scheduler: turns claimed numbers into tiles
//   warp 2       where the output is added to: the courier of old and new values
//   warps 4-11   two consumer warpgroups, 64 rows of out each: multiply, store
//
// Both operands lie in shared memory as the copy engine brings them, 64 token rows of
// 64 features a box, and wgmma reads them with the features as their major dimension:
// nothing is ever transposed.
//
// NaN or Inf of one group reaches no other: the last, partial k-block of a group holds
// zeros instead of a neighbour's rows, in both operands (load_stage). Past the last
// feature, too, the copy engine fills in zeros, and does not store.
#pragma once

#include "cuda/common/dependent_launch.cuh"
#include "cuda/gemm/sm90/k_grouped_add_epilogue.cuh"
#include "cuda/gemm/sm90/wgmma.cuh"

namespace gg::cuda::sm90 {

// 128 * 40 + 256 * 232 <= 65536. 24 and 240 spill the producer.
inline constexpr int kKGroupedProducerRegisters = 40;
inline constexpr int kKGroupedConsumerRegisters = 232;

// Descriptor of an operand whose features are its major dimension: eight token rows
// at 128 bytes each, swizzled; the next eight follow at 1024 bytes, the next 64
// features at box_bytes.
__device__ __forceinline__ uint64_t feature_major_descriptor(uint32_t address, int box_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kNextEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kNextEightRows | static_cast<uint64_t>(box_bytes >> 4) << 16 |
         (address & 0x3ffff) >> 4;
}

// ---- load ---------------------------------------------------------------------------------------

// The k-block of a tile that starts at row k of its group. Fewer than 64 rows are
// left in the last one: they come last in the stage, after rows of zeros.
template <class Policy>
__device__ __forceinline__ void load_stage(KGroupedShared<Policy>& shared, const KGroupedArgs& args,
                                           const KGroupedTile& tile, int slot, int k) {
  using Memory = KGroupedShared<Policy>;
  const uint64_t& full = shared.full[slot];
  const uint32_t left = ptx::shared_address(shared.stage[slot]);
  const uint32_t right = left + Memory::kLeftBytes;
  const int boxes = divide_up(tile.columns, kBoxFeatures);
  ptx::mbarrier_arrive_expect(full, Memory::kLeftBytes + boxes * Memory::kBoxBytes);
  const int x = min(tile.rows - k, Policy::kTileK) - Policy::kTileK;  // tensor_maps.cc
  const int y = tile.row0 + k;
#pragma unroll
  for (int b = 0; b < Policy::kTileRows / kBoxFeatures; ++b) {
    ptx::load_3d(left + b * Memory::kBoxBytes, args.left, full, tile.out_row + b * kBoxFeatures, x,
                 y);
  }
#pragma unroll
  for (int b = 0; b < Policy::kTileColumns / kBoxFeatures; ++b) {
    if (b >= boxes) break;
    ptx::load_3d(right + b * Memory::kBoxBytes, args.right, full,
                 tile.out_column + b * kBoxFeatures, x, y);
  }
}

// Brings a piece of what is added to into L2, under each of the tile's last k-blocks:
// earlier it would be gone again.
__device__ __forceinline__ void fetch_old_ahead(const KGroupedArgs& args, const KGroupedTile& tile,
                                                int blocks_left) {
  constexpr int kPieceColumns = 32;
  const int column = (blocks_left - 1) * kPieceColumns;
  if (column >= tile.columns) return;
  ptx::prefetch_3d(args.out_columns_ahead, tile.out_column + column, tile.out_row, tile.expert);
}

// One thread.
template <class Policy, bool kFetchesOld>
__device__ __forceinline__ void produce(KGroupedShared<Policy>& shared, const KGroupedArgs& args) {
  ptx::prefetch_tensor_map(args.left);
  ptx::prefetch_tensor_map(args.right);
  Cursor<Policy::kStages> at;
  for (Cursor<kTileRing> ring;; ring.next()) {
    ptx::mbarrier_wait(shared.tile_full[ring.slot], ring.parity);
    const KGroupedTile tile = shared.tile[ring.slot];
    if (tile.is_end()) return;
    const int claim_row = (divide_up(tile.rows, Policy::kTileK) - Policy::kClaimLead) *
                          Policy::kTileK;  // of the k-block under which the next tile is claimed
    if (claim_row <= 0) ptx::mbarrier_arrive(shared.tile_read[ring.slot]);
    for (int k = 0; k < tile.rows; k += Policy::kTileK, at.next()) {
      if (k > 0 && k == claim_row) ptx::mbarrier_arrive(shared.tile_read[ring.slot]);
      ptx::mbarrier_wait(shared.empty[at.slot], at.parity ^ 1);
      load_stage(shared, args, tile, at.slot, k);
      if constexpr (kFetchesOld) {
        fetch_old_ahead(args, tile, divide_up(tile.rows - k, Policy::kTileK));
      }
    }
  }
}

// ---- multiply -----------------------------------------------------------------------------------

// One warp of a consumer warpgroup.
template <class Policy, typename In, class Epilogue>
struct KGroupedConsumer {
  using Memory = KGroupedShared<Policy>;

  Memory& shared;
  const KGroupedArgs& args;
  const int warpgroup;
  const int warp;  // within the warpgroup, the same value in all its lanes
  Epilogue epilogue;
  Cursor<Policy::kStages> at;
  Cursor<kTileRing> ring;

  static constexpr int kAccumulators = Policy::kTileColumns / 2;  // of the widest tile
  static constexpr int kSteps = Policy::kTileK / 16;
  static constexpr uint64_t kDescriptorStep = 16 * kRowBytes / 16;  // 16 token rows, in 16 bytes

  __device__ __forceinline__ void wait_full() {
    ptx::mbarrier_wait(shared.full[at.slot], at.parity);
  }
  __device__ __forceinline__ void release(int slot) {
    if (lane_index() == 0) ptx::mbarrier_arrive(shared.empty[slot]);
  }

  __device__ __forceinline__ KGroupedTile next_tile() {
    ptx::mbarrier_wait(shared.tile_full[ring.slot], ring.parity);
    const KGroupedTile tile = read_by_first_lane(shared.tile[ring.slot]);
    if (!tile.is_end()) {
      if (lane_index() == 0) ptx::mbarrier_arrive(shared.tile_read[ring.slot]);
    }
    ring.next();
    return tile;
  }

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

// ---- the kernel ---------------------------------------------------------------------------------

template <class Policy, typename In, class Epilogue>
__global__ void __launch_bounds__(kThreadsOf<Policy>, 1)
    k_grouped_gemm(const __grid_constant__ KGroupedArgs args) {
  using Memory = KGroupedShared<Policy>;
  extern __shared__ uint8_t shared_bytes[];
  Memory& shared = *reinterpret_cast<Memory*>(shared_bytes);
  if (threadIdx.x == 0) {
    if (ptx::shared_address(shared_bytes) % alignof(Memory) != 0) __trap();
    init_barriers(shared);
    for (int w = 0; w < Memory::kConsumerWarps; ++w) {
      for (int i = 0; i < Policy::kSlabs; ++i) {
        ptx::mbarrier_init(shared.slab_loaded[w][i], 1);
        ptx::mbarrier_init(shared.slab_added[w][i], 1);
      }
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();

  const int warp = __shfl_sync(kWholeWarp, static_cast<int>(threadIdx.x / 32), 0);
  if (warp < kWarpgroup / 32) {
    ptx::give_registers<kKGroupedProducerRegisters>();
    if (warp == 0 && ptx::elect()) produce<Policy, Epilogue::kFetchesOld>(shared, args);
    if (warp == 1) {
      cuda::ptx::wait_for_previous_kernel();  // of sizes and counters; all else follows from a tile
      KGroupedScheduler<Policy, Epilogue::kSkipsEmpty>{args}.run(shared);
    }
    if constexpr (Policy::kHasCourier) {
      if (warp == 2 && ptx::elect()) typename Epilogue::Carrier{shared, args}.run();
    }
  } else {
    ptx::take_registers<kKGroupedConsumerRegisters>();
    const int consumer_warp = warp - kWarpgroup / 32;
    KGroupedConsumer<Policy, In, Epilogue>{shared, args, consumer_warp / 4, consumer_warp % 4,
                                           Epilogue(args, shared, consumer_warp)}
        .run();
  }
}

}  // namespace gg::cuda::sm90
