// From a warp's sums to the output: rounded once, in chunks of 16 bytes. Four lanes hold the
// eight columns of a fragment's row two by two; they swap words so that each of them has a chunk
// of its own, and four chunks side by side are written at once. No shared memory, so the next
// tile's slices go on arriving, and no warp waits for another.
#pragma once

#include <type_traits>

#include "cuda/common/number.cuh"
#include "cuda/gemm/sm80/mainloop.cuh"

namespace gg::cuda::sm80 {

// Where a tile goes.
template <typename Out>
struct Target {
  Out* begin;     // the tile's first element
  int64_t pitch;  // elements between rows
  int rows;       // of the tile, at most kTileRows
  int columns;    // from the tile's first one to the end of the output
  bool whole;     // chunks may be written at once: all addresses are multiples of 16 bytes
  bool add;       // to what is there
};

// words[i] of lane q (of four) becomes words[q] of lane i. Its own inverse.
__device__ __forceinline__ void transpose_quad(int lane, uint32_t (&words)[4]) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool is_high = lane & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t other = __shfl_xor_sync(kWholeWarp, is_high ? words[i] : words[i | bit], bit);
      (is_high ? words[i] : words[i | bit]) = other;
    }
  }
}

// 16 bytes of one row of the output, `left` elements before its end (<= 0: past it). kWhole: the
// row ends with a chunk, so that one is there as a whole or not at all.
template <typename Out, bool kWhole>
struct Chunk {
  static constexpr int kElements = 16 / sizeof(Out);

  Out* at;
  int left;

  __device__ __forceinline__ void load(uint32_t (&words)[4]) const {
    uint4 all = {};
    if constexpr (kWhole) {
      if (left > 0) all = *reinterpret_cast<const uint4*>(at);
    } else {
      auto& some = reinterpret_cast<Vector<Out, kElements>&>(all);
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if (i < left) some.values[i] = at[i];
      }
    }
    words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
  }

  __device__ __forceinline__ void store(const uint32_t (&words)[4]) const {
    const uint4 all = make_uint4(words[0], words[1], words[2], words[3]);
    if constexpr (kWhole) {
      if (left > 0) *reinterpret_cast<uint4*>(at) = all;
    } else {
      const auto& some = reinterpret_cast<const Vector<Out, kElements>&>(all);
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if (i < left) at[i] = some.values[i];
      }
    }
  }
};

// How a row of a fragment's block of kFragments (8 columns each) becomes a chunk a lane.
template <typename Out>
struct Spread {  // 16 bits: four fragments, one for each lane
  static constexpr int kFragments = 4;

  // First column of a lane's chunk in the block.
  __device__ __forceinline__ static int column(int lane) { return lane % 4 * 8; }

  template <class Sum>
  __device__ __forceinline__ static void spread(int lane, const Sum& sum, const uint32_t (&old)[4],
                                                bool add, uint32_t (&words)[4]) {
    uint32_t before[4] = {old[0], old[1], old[2], old[3]};
    if (add) transpose_quad(lane, before);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 value = make_float2(sum(i, 0), sum(i, 1));
      if (add) {
        const float2 there = ptx::unpack<Out>(before[i]);
        value.x += there.x, value.y += there.y;
      }
      words[i] = ptx::pack<Out>(value.x, value.y);
    }
    transpose_quad(lane, words);
  }
};
template <>
struct Spread<float> {  // two fragments: even lanes take halves of the first, odd ones of the
                        // second
  static constexpr int kFragments = 2;

  __device__ __forceinline__ static int column(int lane) { return lane % 2 * 8 + lane / 2 % 2 * 4; }

  template <class Sum>
  __device__ __forceinline__ static void spread(int lane, const Sum& sum, const uint32_t (&old)[4],
                                                bool add, uint32_t (&words)[4]) {
    const bool is_odd = lane & 1;
    float value[4];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float kept = is_odd ? sum(1, j) : sum(0, j);
      const float other = __shfl_xor_sync(kWholeWarp, is_odd ? sum(0, j) : sum(1, j), 1);
      value[j] = is_odd ? other : kept;
      value[2 + j] = is_odd ? kept : other;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (add) value[i] += __uint_as_float(old[i]);
      words[i] = __float_as_uint(value[i]);
    }
  }
};

// Old values of a fragment's 16 rows are asked for before any is used.
template <bool kWhole, typename Out, int kBlocks>
__device__ __forceinline__ void store_chunks(const Sums<kBlocks>& sums, const Place& place,
                                             const Target<Out>& target, bool add) {
  constexpr int kFragments = Spread<Out>::kFragments;
  constexpr int kChunks = kWarpColumns / 8 / kFragments;
  const int row = place.row_block(0) + place.lane / 4;
  const int column = place.column_warp * kWarpColumns + Spread<Out>::column(place.lane);
  Out* const begin = target.begin + row * target.pitch + column;
  const int64_t eight_rows = 8 * target.pitch;
  const auto chunk_at = [&](int f, int half, int c) {
    const int eights = 2 * kRowWarps * f + half, at = c * kFragments * 8;
    return Chunk<Out, kWhole>{begin + eights * eight_rows + at,
                              row + 8 * eights < target.rows ? target.columns - column - at : 0};
  };
#pragma unroll
  for (int f = 0; f < kBlocks; ++f) {
    uint32_t old[2][kChunks][4] = {};
    if (add) {
#pragma unroll
      for (int i = 0; i < 2 * kChunks; ++i) {
        chunk_at(f, i / kChunks, i % kChunks).load(old[i / kChunks][i % kChunks]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * kChunks; ++i) {
      const int half = i / kChunks, c = i % kChunks;
      const auto sum = [&](int fragment, int j) {
        return sums.acc[f][c * kFragments + fragment][2 * half + j];
      };
      uint32_t words[4];
      Spread<Out>::spread(place.lane, sum, old[half][c], add, words);
      chunk_at(f, half, c).store(words);
    }
  }
}

// All lanes of a warp. What a launch has in common is asked once a tile: a branch at every chunk
// would keep chunks from being worked on side by side. (H200, 2026-11-30, bf16 weight gradients,
// seven models, TFLOP/s cold / steady: 379 / 386, with branches 355 / 359.)
template <typename Out, int kBlocks>
__device__ __forceinline__ void store_sums(const Sums<kBlocks>& sums, const Place& place,
                                           const Target<Out>& target) {
  const bool whole = target.whole && target.columns % Chunk<Out, true>::kElements == 0;
  if (whole && target.add) return store_chunks<true>(sums, place, target, true);
  if (whole) return store_chunks<true>(sums, place, target, false);
  store_chunks<false>(sums, place, target, target.add);
}

}  // namespace gg::cuda::sm80
