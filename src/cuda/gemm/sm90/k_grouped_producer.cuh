// The K-grouped kernel's producer: one thread that tells the copy engine which k-blocks of both
// operands to bring into the ring of stages, tile after tile.
#pragma once

#include "cuda/gemm/sm90/k_grouped_scheduler.cuh"

namespace gg::cuda::sm90 {

// The k-block of a tile that starts at row k of its group. Fewer than kTileK rows are
// left in the last one: they come last in the stage, after rows of zeros.
template <class Policy>
__device__ __forceinline__ void load_stage(KGroupedShared<Policy>& shared, const KGroupedArgs& args,
                                           const KGroupedTile& tile, int slot, int k) {
  using Memory = KGroupedShared<Policy>;
  const uint64_t& full = shared.full[slot];
  const uint32_t left = ptx::shared_address(shared.stage[slot]);
  const uint32_t right = left + Memory::kLeftBytes;
  const int boxes = divide_up(tile.columns, Policy::kBoxFeatures);
  ptx::mbarrier_arrive_expect(full, Memory::kLeftBytes + boxes * Memory::kBoxBytes);
  const int x = min(tile.rows - k, Policy::kTileK) - Policy::kTileK;  // tensor_maps.cc
  const int y = tile.row0 + k;
#pragma unroll
  for (int b = 0; b < Policy::kTileRows / Policy::kBoxFeatures; ++b) {
    ptx::load_3d(left + b * Memory::kBoxBytes, args.left, full,
                 tile.out_row + b * Policy::kBoxFeatures, x, y);
  }
#pragma unroll
  for (int b = 0; b < Policy::kTileColumns / Policy::kBoxFeatures; ++b) {
    if (b >= boxes) break;
    ptx::load_3d(right + b * Memory::kBoxBytes, args.right, full,
                 tile.out_column + b * Policy::kBoxFeatures, x, y);
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

}  // namespace gg::cuda::sm90
