// How one warp of each block claims tiles from a counter that all blocks share, in each of
// two classes of groups (cuda/gemm/group_window.cuh). Used by both kernels' schedulers.
#pragma once

#include "cuda/gemm/group_window.cuh"
#include "cuda/gemm/sm90/pipeline.cuh"

namespace gg::cuda::sm90 {

// A claimed number: a tile, or one of the equal parts that it is cut into.
struct Claim {
  int tile;
  int part;
  int parts;
};

// Where a block stands: the class it works on. One warp.
//
// The large class's tiles left over after its last whole wave of blocks are cut into parts, so
// that blocks without one help the others. `totals` says where that begins; were it wrong,
// every part of every tile would still be claimed once.
struct ClassCursor {
  const TileClasses& classes;
  const int small_blocks;  // of all blocks, those that start with the small class, evenly spread
  int whole_tiles;         // of the large class before its last wave,
  int parts;               // into how many each tile of that is cut
  bool is_small;
  int left;  // classes that may still have tiles, this one included

  template <class Totals>
  __device__ ClassCursor(const TileClasses& classes, const Totals& totals)
      : classes(classes),
        small_blocks(share_of_small(totals.small_work, totals.work)),
        is_small(before(blockIdx.x + 1) > before(blockIdx.x)),
        left(classes.small_rows > 0 ? 2 : 1) {
    const int blocks = max(static_cast<int>(gridDim.x) - small_blocks, 1);
    const int rest = totals.large_tiles % blocks;
    whole_tiles = totals.large_tiles - rest;
    parts = rest > 0 ? min(blocks / rest, classes.most_parts) : 1;
  }

  // As many of the blocks as the small groups' work is of all work, so that both classes
  // end together.
  __device__ __forceinline__ static int share_of_small(float small, float all) {
    const int blocks = static_cast<int>(gridDim.x);
    return all > 0.0f ? min(static_cast<int>(small / all * blocks), blocks) : 0;
  }
  // Blocks before this one that start with the small class.
  __device__ __forceinline__ int before(int block) const {
    return static_cast<int>(static_cast<unsigned>(block) * small_blocks / gridDim.x);
  }
  __device__ __forceinline__ Claim first() const {
    const int b = before(blockIdx.x);
    return claimed(is_small ? b : blockIdx.x - b);
  }
  __device__ __forceinline__ Claim claim() const {
    const int starters = is_small ? small_blocks : gridDim.x - small_blocks;
    int number = 0;
    if (lane_index() == 0)
      number = starters + static_cast<int>(atomicAdd(&classes.claims[is_small], 1u));
    return claimed(__shfl_sync(kWholeWarp, number, 0));
  }
  __device__ __forceinline__ Claim claimed(int number) const {
    if (is_small || parts == 1 || number < whole_tiles) return {number, 0, 1};
    const int tile = (number - whole_tiles) / parts;
    return {whole_tiles + tile, number - whole_tiles - tile * parts, parts};
  }
  // Goes to the other class, if it has not been there.
  __device__ __forceinline__ bool next() {
    if (--left <= 0) return false;
    is_small = !is_small;
    return true;
  }
};

// All 32 lanes of one warp: tiles until the last one, through the ring in shared
// memory. scheduler.tile(claim) gives the end where there is no such tile, and a tile
// that is_nothing() for a part without rows.
template <class SharedMemory, class Scheduler>
__device__ __forceinline__ void hand_out_tiles(SharedMemory& shared, const TileClasses& classes,
                                               Scheduler& scheduler) {
  using Window = decltype(scheduler.window);
  auto& window = scheduler.window;
  const bool counts = classes.small_rows > 0 || classes.most_parts > 1;
  ClassCursor cursor{classes, counts ? window.totals() : typename Window::Totals{}};
  window.is_small = cursor.is_small;
  Claim claim = cursor.first();
  for (Cursor<kTileRing> ring;; ring.next()) {
    auto next = scheduler.tile(claim);
    while (next.is_nothing() || (next.is_end() && cursor.next())) {
      if (next.is_end()) {
        window.is_small = cursor.is_small;
        window.rewind();
      }
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
    claim = cursor.claim();
  }
}

}  // namespace gg::cuda::sm90
