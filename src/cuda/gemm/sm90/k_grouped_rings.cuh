// Where a consumer warp of the K-grouped kernel stands in the rings of k-blocks and of tiles.
#pragma once

#include "cuda/gemm/sm90/k_grouped_scheduler.cuh"

namespace gg::cuda::sm90 {

template <class Memory>
struct KGroupedRings {
  Memory& shared;
  Cursor<Memory::kStages> at{};
  Cursor<kTileRing> ring{};

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
};

}  // namespace gg::cuda::sm90
