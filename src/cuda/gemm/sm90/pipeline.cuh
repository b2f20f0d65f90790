// How the warps of a block meet: its shared memory, the ring of k-blocks, the
// ring of tiles. The M-grouped kernel's memory; rings and barriers are the
// K-grouped one's, too.
#pragma once

#include "cuda/gemm/group_window.cuh"
#include "cuda/gemm/sm90/args.h"
#include "cuda/gemm/sm90/policy.h"
#include "cuda/gemm/sm90/ptx.cuh"

namespace gg::cuda::sm90 {

inline constexpr int kWarpgroup = 128;
inline constexpr int kFeaturesPerConsumer = 64;  // wgmma's m
inline constexpr int kRowBytes = 128;            // of 64 elements: a row of the 128-byte swizzle
template <typename T>
inline constexpr int kRowElements = kRowBytes / int{sizeof(T)};
inline constexpr int kTileRing = 2;      // tiles handed out: the running one and the next
inline constexpr int kPieceTokens = 64;  // a piece of output: 64 tokens x 64 features
inline constexpr int kPieceBytes = kPieceTokens * kRowBytes;
inline constexpr int kPieceBuffers = 2;  // one costs 1.5 % (H200, 2026-11-22, gemm_m prototype)
using PieceBuffers = uint8_t[kPieceBuffers][kPieceBytes];  // of a consumer warpgroup

// An output tile: `rows` tokens from row0 on, of one expert, and a tile of features.
struct alignas(16) Tile {
  int row0;
  int rows;
  int feature_tile;
  int expert_and_steps;  // (expert + 1) * 256 + length in kTokenSteps; 0: there are no more tiles

  __device__ __forceinline__ int expert() const { return (expert_and_steps >> 8) - 1; }
  __device__ __forceinline__ int steps() const { return expert_and_steps & 0xff; }
  __device__ __forceinline__ bool is_end() const { return expert_and_steps == 0; }
  __device__ __forceinline__ bool is_nothing() const { return rows <= 0 && !is_end(); }
};

// The dynamic shared memory. NOTE: the swizzle needs stages and pieces at
// multiples of 1024 bytes; the kernel has no static shared memory before them.
template <class Policy>
struct alignas(1024) Shared {
  static constexpr int kStages = Policy::kStages;
  static constexpr int kConsumerWarps = 4 * Policy::kConsumers;
  static constexpr int kTileReaders = kConsumerWarps + 1;
  static constexpr int kWeightBytes = Policy::kTileFeatures * kRowBytes;
  static constexpr int kStageBytes = kWeightBytes + Policy::kTileTokens * kRowBytes;

  uint8_t stage[Policy::kStages][kStageBytes];  // weights, then tokens
  PieceBuffers pieces[Policy::kConsumers];
  Tile tile[kTileRing];
  uint64_t full[Policy::kStages];   // the copy engine has filled the stage
  uint64_t empty[Policy::kStages];  // every consumer warp has multiplied it
  uint64_t tile_full[kTileRing];    // the scheduler has written the tile
  uint64_t tile_read[kTileRing];    // the consumers have read it, and the producer nears its end
};

// A block: the producer and scheduler's warpgroup, and the consumers.
template <class Policy>
inline constexpr int kThreadsOf = (1 + Policy::kConsumers) * kWarpgroup;

template <class SharedMemory>
__device__ __forceinline__ void init_barriers(SharedMemory& shared) {
  for (int s = 0; s < SharedMemory::kStages; ++s) {
    ptx::mbarrier_init(shared.full[s], 1);
    ptx::mbarrier_init(shared.empty[s], SharedMemory::kConsumerWarps);
  }
  for (int r = 0; r < kTileRing; ++r) {
    ptx::mbarrier_init(shared.tile_full[r], 1);
    ptx::mbarrier_init(shared.tile_read[r], SharedMemory::kTileReaders);
  }
  ptx::fence_mbarrier_init();
}

// A tile of the ring, read by the lane that says so at tile_read afterwards and told to the
// others: if all lanes read, what keeps the scheduler from overwriting it under them would
// be __syncwarp and one arrival, which racecheck cannot follow.
template <class T>
__device__ __forceinline__ T read_by_first_lane(const T& source) {
  static_assert(sizeof(T) % sizeof(int) == 0);
  T tile{};
  if (lane_index() == 0) tile = source;
  int* words = reinterpret_cast<int*>(&tile);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / sizeof(int)); ++i) {
    words[i] = __shfl_sync(kWholeWarp, words[i], 0);
  }
  return tile;
}

// A position in a ring, and the parity of the round.
template <int kLength>
struct Cursor {
  int slot = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++slot == kLength) {
      slot = 0;
      parity ^= 1;
    }
  }
};

}  // namespace gg::cuda::sm90
