// How one warp of each block claims tiles from a counter that all blocks share, in each of
// two classes of groups (cuda/gemm/group_window.cuh). Used by both kernels' schedulers.
#pragma once

#include "cuda/gemm/group_window.cuh"
#include "cuda/gemm/sm90/pipeline.cuh"

namespace gg::cuda::sm90 {

// Where a block stands: the class it works on. One warp.
struct ClassCursor {
  const TileClasses& classes;
  const int small_blocks;  // of all blocks, those that start with the small class, evenly spread
  bool is_small;
  int left;  // classes that may still have tiles, this one included

  __device__ ClassCursor(const TileClasses& classes, int small_blocks)
      : classes(classes),
        small_blocks(small_blocks),
        is_small(before(blockIdx.x + 1) > before(blockIdx.x)),
        left(classes.small_rows > 0 ? 2 : 1) {}

  // Blocks before this one that start with the small class.
  __device__ __forceinline__ int before(int block) const {
    return static_cast<int>(static_cast<unsigned>(block) * small_blocks / gridDim.x);
  }
  __device__ __forceinline__ int first() const {
    const int b = before(blockIdx.x);
    return is_small ? b : blockIdx.x - b;
  }
  __device__ __forceinline__ int claim() const {
    const int starters = is_small ? small_blocks : gridDim.x - small_blocks;
    int number = 0;
    if (lane_index() == 0)
      number = starters + static_cast<int>(atomicAdd(&classes.claims[is_small], 1u));
    return __shfl_sync(kWholeWarp, number, 0);
  }
  // Goes to the other class, if it has not been there.
  __device__ __forceinline__ bool next() {
    if (--left <= 0) return false;
    is_small = !is_small;
    return true;
  }
};

// All 32 lanes of one warp: tiles until the last one, through the ring in shared
// memory. scheduler.tile(number) gives the end where there is no such tile.
template <class SharedMemory, class Scheduler>
__device__ __forceinline__ void hand_out_tiles(SharedMemory& shared, const TileClasses& classes,
                                               Scheduler& scheduler) {
  auto& window = scheduler.window;
  ClassCursor cursor{classes, classes.small_rows > 0 ? window.blocks_for_small() : 0};
  window.is_small = cursor.is_small;
  int number = cursor.first();
  for (Cursor<kTileRing> ring;; ring.next()) {
    auto next = scheduler.tile(number);
    while (next.is_end() && cursor.next()) {
      window.is_small = cursor.is_small;
      window.rewind();
      next = scheduler.tile(cursor.claim());
    }
    if (lane_index() == 0) {
      shared.tile[ring.slot] = next;
      ptx::mbarrier_arrive(shared.tile_full[ring.slot]);
    }
    if (next.is_end()) break;
    // Claim late: a queued tile is one that no idle block can take (+1-4 % on
    // random sizes, H200, 2026-11-22, gemm_m prototype).
    ptx::mbarrier_wait(shared.tile_read[ring.slot], ring.parity);
    number = cursor.claim();
  }
}

}  // namespace gg::cuda::sm90
