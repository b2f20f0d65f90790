// How one warp of each block claims tiles from a counter that all blocks share, in each of
// two classes of groups (cuda/gemm/group_window.cuh). Used by both kernels' schedulers.
#pragma once

#include "cuda/gemm/group_window.cuh"
#include "cuda/gemm/sm90/pipeline.cuh"

namespace gg::cuda::sm90 {

inline constexpr int kNoTile = 0x7fffffff;  // larger than any tile's number

// A claimed number: a tile, or a half of one.
struct Claim {
  enum Share { kWhole, kFirstHalf, kSecondHalf };
  int tile;
  Share share;
};

// Where a block stands: the class it works on. One warp.
//
// The large class's tiles left over after its last whole wave of blocks may be cut in two, so
// that blocks without one help the others. `totals` says where that begins; were it wrong,
// every half of every tile would still be claimed once.
//
// NOTE: until the first tile is known nothing else happens, and most of that time passes in
// fetching this code: 14 000 cycles with cold caches before what follows was made short, with
// few divisions (250 bytes each); see benchmarks/NOTES.md, "The first tile".
struct ClassCursor {
  const TileClasses& classes;
  int small_blocks;  // of all blocks, those that start with the small class, evenly spread
  int small_before;  // of those, how many stand before this one
  bool is_small;
  int left;         // classes that may still have tiles, this one included
  int whole_tiles;  // of the large class before its last wave,
  bool halves;      // whose tiles are cut in two

  template <class Totals>
  __device__ ClassCursor(const TileClasses& classes, const Totals& totals)
      : classes(classes), left(classes.small_rows > 0 ? 2 : 1) {
    const int num_blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    small_blocks = share_of_small(totals.small_work, totals.work);
    const unsigned product = static_cast<unsigned>(block) * small_blocks;
    small_before = small_blocks > 0 ? product / num_blocks : 0;
    is_small = product - small_before * num_blocks + small_blocks >= gridDim.x;
    const int others = max(num_blocks - small_blocks, 1);
    const int rest = totals.large_tiles % others;
    whole_tiles = totals.large_tiles - rest;
    halves = classes.halves && rest > 0 && 2 * rest <= others;
  }

  // As many of the blocks as the small groups' work is of all work, so that both classes
  // end together.
  __device__ __forceinline__ static int share_of_small(float small, float all) {
    const int blocks = static_cast<int>(gridDim.x);
    return small > 0.0f ? min(static_cast<int>(__fdividef(small, all) * blocks), blocks) : 0;
  }
  __device__ __forceinline__ Claim first() const {
    return claimed(is_small ? small_before : static_cast<int>(blockIdx.x) - small_before);
  }
  __device__ __forceinline__ Claim claim() const {
    if (classes.claims == nullptr) return {kNoTile, Claim::kWhole};
    const int starters = is_small ? small_blocks : static_cast<int>(gridDim.x) - small_blocks;
    int number = 0;
    if (lane_index() == 0)
      number = starters + static_cast<int>(atomicAdd(&classes.claims[is_small], 1u));
    return claimed(__shfl_sync(kWholeWarp, number, 0));
  }
  __device__ __forceinline__ Claim claimed(int number) const {
    const int in_last_wave = number - whole_tiles;
    if (is_small || !halves || in_last_wave < 0) return {number, Claim::kWhole};
    return {whole_tiles + in_last_wave / 2,
            in_last_wave % 2 == 0 ? Claim::kFirstHalf : Claim::kSecondHalf};
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
// that is_nothing() for a half without rows.
template <class SharedMemory, class Scheduler>
__device__ __forceinline__ void hand_out_tiles(SharedMemory& shared, const TileClasses& classes,
                                               Scheduler& scheduler) {
  using Window = decltype(scheduler.window);
  auto& window = scheduler.window;
  const bool counts = classes.small_rows > 0 || classes.halves;
  ClassCursor cursor{classes, counts ? window.totals() : typename Window::Totals{}};
  window.is_small = cursor.is_small;
  Claim claim = cursor.first();
  for (Cursor<kTileRing> ring;; claim = cursor.claim()) {
    const auto next = scheduler.tile(claim);  // NOTE: the only place: code that is cold is slow
    if (next.is_end() && cursor.next()) {
      window.is_small = cursor.is_small;
      window.rewind();
    } else if (!next.is_nothing()) {
      if (lane_index() == 0) {
        shared.tile[ring.slot] = next;
        ptx::mbarrier_arrive(shared.tile_full[ring.slot]);
      }
      if (next.is_end()) break;
      // Claim late: a queued tile is one that no idle block can take (+1-4 % on
      // random sizes, H200, 2026-11-22, gemm_m prototype).
      ptx::mbarrier_wait(shared.tile_read[ring.slot], ring.parity);
      ring.next();
    }
  }
}

}  // namespace gg::cuda::sm90
