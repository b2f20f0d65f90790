// Epilogues (epilogue.cuh) for output whose rows the copy engine cannot reach: every thread
// stores what it holds.
#pragma once

#include "cuda/gemm/sm90/epilogue.cuh"

namespace gg::cuda::sm90 {

// A finished tile, rounded to 16 bits in registers, so that the next one can
// start at once (+8 % at K = 768, +3 % at 4096; H200, 2026-11-22, gemm_m
// prototype): packed[2 c + i] holds acc[4 c + 2 i] and, above it, acc[4 c + 2 i + 1].
template <typename T>
struct PackedTile {
  uint32_t packed[256 / 4];
  Tile tile{0, 0, 0, 0};

  template <int kN>
  __device__ __forceinline__ void take(const float (&acc)[kN / 2], const Tile& finished) {
#pragma unroll
    for (int i = 0; i < kN / 4; ++i) packed[i] = ptx::pack<T>(acc[2 * i], acc[2 * i + 1]);
    tile = finished;
  }

  // Rows of the tile from piece s on.
  __device__ __forceinline__ int rows_from(int s) const { return tile.rows - s * kPieceTokens; }
};

// 16-bit output whose rows the copy engine cannot reach, under the next tile's
// k-blocks. Eight lanes write eight neighbouring features of a token.
template <typename T>
struct ThreadStore {
  using Out = T;
  static constexpr int kSteps = 256 / kPieceTokens;

  const MGroupedArgs& args;
  const ConsumerPlace place;
  PackedTile<T> done;

  __device__ ThreadStore(const MGroupedArgs& args, ConsumerPlace place, PieceBuffers&)
      : args(args), place(place) {}

  template <int kN>
  __device__ __forceinline__ void take(const float (&acc)[kN / 2], const Tile& tile) {
    done.template take<kN>(acc, tile);
  }

  __device__ __forceinline__ bool has_kept() const { return done.tile.rows > 0; }
  __device__ __forceinline__ void step(int s) {
    const int rows = done.rows_from(s);
    if (rows <= 0) return;
    const int feature = place.first_feature(done.tile) + place.warp * 16 + place.lane / 4;
    const int token0 = place.lane % 4 * 2;
    const int row0 = done.tile.row0 + s * kPieceTokens + token0;
    uint16_t* target = static_cast<uint16_t*>(args.out) + row0 * args.out_pitch + feature;
#pragma unroll
    for (int c = 0; c < kPieceTokens / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t pair = done.packed[s * kPieceTokens / 4 + 2 * c + i];
        if (feature + 8 * i >= args.num_n) continue;
        if (token0 + 8 * c < rows) target[8 * i] = static_cast<uint16_t>(pair);
        if (token0 + 8 * c + 1 < rows) {
          target[args.out_pitch + 8 * i] = static_cast<uint16_t>(pair >> 16);
        }
      }
      target += 8 * args.out_pitch;
    }
  }

  __device__ __forceinline__ void finish() {}
  __device__ __forceinline__ void drain() {}
};

// fp32 output, at once: there are no registers to keep it in. Eight lanes fill a
// 32-byte sector, so nothing is gained by way of shared memory but time.
// Missing: a store that hides under the next tile.
template <class Features>
struct ThreadStoreFloat {
  using Out = float;
  static constexpr int kSteps = 0;

  const MGroupedArgs& args;
  const ConsumerPlace place;

  __device__ ThreadStoreFloat(const MGroupedArgs& args, ConsumerPlace place, PieceBuffers&)
      : args(args), place(place) {}

  template <int kN>
  __device__ __forceinline__ void take(const float (&acc)[kN / 2], const Tile& tile) {
    const int token0 = place.lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int feature = place.first_feature(tile) + Features::of(place.warp, place.lane, i);
      if (feature >= args.num_n) continue;
      float* target =
          static_cast<float*>(args.out) + (tile.row0 + token0) * args.out_pitch + feature;
#pragma unroll
      for (int c = 0; c < kN / 8; ++c) {
        if (token0 + 8 * c < tile.rows) *target = acc[4 * c + 2 * i];
        if (token0 + 8 * c + 1 < tile.rows) target[args.out_pitch] = acc[4 * c + 2 * i + 1];
        target += 8 * args.out_pitch;
      }
    }
  }

  __device__ __forceinline__ bool has_kept() const { return false; }
  __device__ __forceinline__ void step(int) {}
  __device__ __forceinline__ void finish() {}
  __device__ __forceinline__ void drain() {}
};

}  // namespace gg::cuda::sm90
