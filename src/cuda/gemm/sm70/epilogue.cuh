// Sums to out. A way to multiply knows where its sums lie in a warp's registers, out's rows
// want them side by side: each patch of 16 x 16 goes through the warp's slab of shared
// memory, and leaves it 8 columns a thread, clipped at the tile's ends, rounded once.
#pragma once

#include "cuda/common/number.cuh"
#include "cuda/gemm/sm70/args.h"
#include "cuda/gemm/sm70/multiply.cuh"

namespace gg::cuda::sm70 {

inline constexpr int kSlabPitch = 24;  // floats: 8 rows of 2-float stores, different banks
inline constexpr int kSlabFloats = kPatch * kSlabPitch;

// The part of out that a tile covers: `out.data` is its corner.
struct OutTile {
  Output out;
  int num_rows;     // of the tile that exist
  int num_columns;  // likewise
};

// 8 neighbouring sums of a row to the first `count` of 8 elements at `row`.
template <typename T>
__device__ __forceinline__ void store_sums(const float* sums, T* row, int count,
                                           const Output& out) {
  using Eight = Vector<T, kChunk>;
  static_assert(sizeof(Eight) % 16 == 0);
  if (out.in_vectors && count >= kChunk) {
    Eight eight;
    if (out.accumulate) eight = *reinterpret_cast<const Eight*>(row);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      eight.values[i] =
          from_float<T>(out.accumulate ? to_float(eight.values[i]) + sums[i] : sums[i]);
    }
    *reinterpret_cast<Eight*>(row) = eight;
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < count) {
        row[i] = from_float<T>(out.accumulate ? to_float(row[i]) + sums[i] : sums[i]);
      }
    }
  }
}

// All threads call it, after the product's last barrier; `buffers` is the product's shared
// memory, which nobody reads any more.
template <typename Product>
__device__ __forceinline__ void store_tile(const Product& product, const OutTile& tile,
                                           __half* buffers) {
  static_assert(Product::kNumWarps * kSlabFloats * sizeof(float) <= Product::kSharedBytes);
  float* slab = reinterpret_cast<float*>(buffers) + Product::warp() * kSlabFloats;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_in_patch = lane / 2;
  const int column_in_patch = lane % 2 * kChunk;
#pragma unroll
  for (int i = 0; i < Product::kPatchRows; ++i) {
#pragma unroll
    for (int j = 0; j < Product::kPatchColumns; ++j) {
      product.sums[i][j].store(slab, kSlabPitch);
      __syncwarp();
      const int row = Product::first_row() + i * kPatch + row_in_patch;
      const int column = Product::first_column() + j * kPatch + column_in_patch;
      float sums[kChunk];
#pragma unroll
      for (int v = 0; v < kChunk; v += 4) {
        *reinterpret_cast<float4*>(sums + v) = *reinterpret_cast<const float4*>(
            slab + row_in_patch * kSlabPitch + column_in_patch + v);
      }
      if (row < tile.num_rows && column < tile.num_columns) {
        const int64_t offset = row * tile.out.pitch + column;
        const int count = tile.num_columns - column;
        if (tile.out.is_float32) {
          store_sums(sums, static_cast<float*>(tile.out.data) + offset, count, tile.out);
        } else {
          store_sums(sums, static_cast<__half*>(tile.out.data) + offset, count, tile.out);
        }
      }
      __syncwarp();  // all have read: the slab is free for the next patch
    }
  }
}

// `out` from so many elements on.
__device__ __forceinline__ Output moved(Output out, int64_t elements) {
  out.data = static_cast<char*>(out.data) + elements * (out.is_float32 ? 4 : 2);
  return out;
}

}  // namespace gg::cuda::sm70
