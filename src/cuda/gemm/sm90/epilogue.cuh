// What happens to a tile's accumulators. Each epilogue belongs to one consumer
// warpgroup, and m_grouped.cuh calls it in this order:
//
//   take(acc, tile)   a tile is done: keep it, or store it at once
//   has_kept()        whether step(s) would do anything
//   step(s)           under k-block s of the next tile, as far as it has so many,
//                     s = 0 .. kSteps - 1
//   finish()          under the last k-block of that tile: nothing of the tile
//                     taken before is left behind
//   drain()           at the end of the kernel, after finish()
//
// Accumulators are a transposed tile, [64 features][kN tokens]. Thread l of warp
// w holds, in acc[4 c + 2 i + j], feature 16 w + l / 4 + 8 i of token
// 8 c + 2 (l % 4) + j; or feature Features::of(w, l, i) (feature_order.h).
//
// NOTE: rows of the accumulators past tile.rows come from the next group's
// tokens, or from nowhere. Nothing of them may be stored or mixed with others.
#pragma once

#include <type_traits>

#include "cuda/common/number.cuh"
#include "cuda/gemm/sm90/feature_order.h"
#include "cuda/gemm/sm90/pipeline.cuh"

namespace gg::cuda::sm90 {

// x's bound in the clipped view of out; see tensor_maps.cc.
inline constexpr int kClipOrigin = 1 << 30;

// Where a thread stands among the consumers, and the 64 features of a warpgroup.
struct ConsumerPlace {
  int tile_features;  // of the policy
  int warpgroup;
  int warp;  // within the warpgroup, the same value in all its lanes
  int lane;

  __device__ __forceinline__ int first_feature(const Tile& tile) const {
    return tile.feature_tile * tile_features + warpgroup * kFeaturesPerConsumer;
  }
  __device__ __forceinline__ void sync_warpgroup() const {
    ptx::named_barrier(1 + warpgroup, kWarpgroup);  // 0 is __syncthreads
  }
};

// Output by the copy engine, in pieces of 64 features that fill 8 KB of shared memory:
// 64 tokens of 16 bits each, or 32 of 32. A piece is staged under one k-block and sent
// under the next. 64 registers keep what has not been staged: a whole tile of 256 tokens
// rounded to 16 bits, or the last 128 of one in fp32, whose first ones are staged at once.
template <typename T, int kTileTokens, class Features>
struct CopyEngineStore {
  using Out = T;
  using Word = std::conditional_t<sizeof(T) == 4, float, uint32_t>;
  static constexpr int kPieceTokens = kPieceBytes / (kFeaturesPerConsumer * int{sizeof(T)});
  static constexpr int kTileWords = kTileTokens * kFeaturesPerConsumer * int{sizeof(T)} / 4;
  static constexpr int kKeptWords = kTileWords < 64 * kWarpgroup ? kTileWords / kWarpgroup : 64;
  static constexpr int kPieceWords = kPieceBytes / (kWarpgroup * 4);
  static constexpr int kSteps = kKeptWords / kPieceWords;
  static constexpr int kKeptTokens = kSteps * kPieceTokens;

  const MGroupedArgs& args;
  const ConsumerPlace place;
  PieceBuffers& buffers;
  Word kept[kKeptWords];
  Tile tile{0, 0, 0, 0};                // that of kept
  int kept_from = 0;                    // token of the tile
  int buffer = 0;                       // of the next piece
  int staged_row = 0, staged_rows = 0;  // what the other buffer holds and nobody has sent yet
  int staged_feature = 0;

  __device__ CopyEngineStore(const MGroupedArgs& args, ConsumerPlace place, PieceBuffers& buffers)
      : args(args), place(place), buffers(buffers) {}

  template <int kN>
  __device__ __forceinline__ void take(const float (&acc)[kN / 2], const Tile& finished) {
    constexpr int kAtOnce = kN > kKeptTokens ? kN - kKeptTokens : 0;  // tokens
    tile = finished;
    kept_from = kAtOnce;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int t = 0; t < kAtOnce; t += kPieceTokens) put(&acc[t / 2], t, kAtOnce - t);
#pragma unroll
      for (int i = kAtOnce / 2; i < kN / 2; ++i) ptx::move(kept[i - kAtOnce / 2], acc[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kN / 4; ++i) kept[i] = ptx::pack<T>(acc[2 * i], acc[2 * i + 1]);
    }
  }

  __device__ __forceinline__ bool has_kept() const { return tile.rows > 0; }
  __device__ __forceinline__ void step(int s) {
    if (s < kSteps) {
      put(&kept[s * kPieceWords], kept_from + s * kPieceTokens, kPieceTokens);
    } else {
      put(kept, 256, 0);
    }
  }
  __device__ __forceinline__ void finish() { step(kSteps); }
  __device__ __forceinline__ void drain() {
    if (place.warp == 0 && ptx::elect()) ptx::wait_stores();
  }

  // Sends the piece staged last, and stages the one from `token` of the tile on, of at
  // most `tokens`. NOTE: a piece is sent before the one after the next is staged, by
  // the same thread, whose count of pending stores tells when a buffer has been read.
  __device__ __forceinline__ void put(const Word* words, int token, int tokens) {
    const int rows = min(min(tile.rows - token, kPieceTokens), tokens);
    const bool sends = staged_rows > 0;
    if (!sends && rows <= 0) return;  // all 128 threads alike
    if (sends) ptx::fence_proxy_async();
    if (place.warp == 0 && ptx::elect()) {
      // The buffer to stage in is that of the last store but the one being sent.
      if (sends) {
        ptx::wait_stores_read<0>();
      } else {
        ptx::wait_stores_read<kPieceBuffers - 1>();
      }
    }
    __syncwarp();
    place.sync_warpgroup();  // the last piece is staged and fenced; the other buffer is free
    if (sends && place.warp == 0 && ptx::elect()) send();
    __syncwarp();
    if (rows > 0) {
      stage(words, ptx::shared_address(buffers[buffer]));
      buffer ^= 1;
    }
    staged_rows = rows;
    staged_row = tile.row0 + token;
    staged_feature = place.first_feature(tile);
  }

  // One thread. The last piece staged lies in the other buffer. Its boxes of 128 bytes a
  // row are cut off after staged_rows (tensor_maps.cc).
  __device__ __forceinline__ void send() {
#pragma unroll
    for (int f = 0; f < kFeaturesPerConsumer; f += kRowElements<T>) {
      ptx::store_4d(args.out_pieces,
                    ptx::shared_address(buffers[buffer ^ 1]) + f * kPieceTokens * int{sizeof(T)},
                    staged_feature + f, kClipOrigin - staged_rows, staged_row + staged_rows,
                    kClipOrigin);
    }
    ptx::commit_stores();
  }

  // [token][64 features] in the 128-byte swizzle: the 16-byte chunk c of token row r
  // lies at chunk c ^ (r % 8). Tokens past the tile are staged and clipped.
  __device__ __forceinline__ void stage(const uint32_t* words, uint32_t target) const {
    static_assert(std::is_same_v<Features, FeaturesInOrder>);
    const int token = place.lane / 16 * 8 + place.lane % 8;  // + 16 for each matrix quadruple
    const int chunk = place.warp * 2 + place.lane / 8 % 2;
    const uint32_t address = target + token * kRowBytes + ((chunk ^ (place.lane % 8)) << 4);
#pragma unroll
    for (int t = 0; t < kPieceTokens; t += 16) {
      const uint32_t* m = words + t / 4;
      ptx::store_matrices_transposed(address + t * kRowBytes, m[0], m[1], m[2], m[3]);
    }
  }

  // [2][token][32 features], swizzled alike. The 32 lanes hit all banks: their tokens
  // differ in two bits of the swizzle, their features in the third.
  __device__ __forceinline__ void stage(const float* words, uint32_t target) const {
    const int token = place.lane % 4 * 2;  // + j, + 8 for each c
    const uint32_t box = target + place.warp / 2 * (kPieceTokens * kRowBytes);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int feature =
            Features::of(place.warp, place.lane, i) % kRowElements<T>;  // of its box
        const int chunk = feature / 4 ^ (token + j);
        const uint32_t address = box + (token + j) * kRowBytes + chunk * 16 + feature % 4 * 4;
#pragma unroll
        for (int c = 0; c < kPieceTokens / 8; ++c) {
          ptx::store_float(address + c * 8 * kRowBytes, words[4 * c + 2 * i + j]);
        }
      }
    }
  }
};

// Zeros in the rows from first_row on, which belong to no group: one warp of
// every block, rows in turn.
template <typename Out>
__device__ void zero_rows(const MGroupedArgs& args, int first_row, int lane) {
  const int64_t row_bytes = args.num_n * int64_t{sizeof(Out)};
  const int64_t pitch_bytes = args.out_pitch * int64_t{sizeof(Out)};
  const bool by_vectors =
      (reinterpret_cast<uintptr_t>(args.out) | pitch_bytes | row_bytes) % sizeof(uint4) == 0;
  for (int64_t row = first_row + static_cast<int>(blockIdx.x); row < args.num_rows;
       row += gridDim.x) {
    uint8_t* target = static_cast<uint8_t*>(args.out) + row * pitch_bytes;
    if (by_vectors) {
      for (int64_t b = lane * int64_t{sizeof(uint4)}; b < row_bytes; b += 32 * sizeof(uint4)) {
        *reinterpret_cast<uint4*>(target + b) = make_uint4(0, 0, 0, 0);
      }
    } else {
      for (int n = lane; n < args.num_n; n += 32) {
        reinterpret_cast<Out*>(target)[n] = from_float<Out>(0.0f);
      }
    }
  }
}

}  // namespace gg::cuda::sm90
