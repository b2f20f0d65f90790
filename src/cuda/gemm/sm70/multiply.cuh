// The main loop of both kernels: an output tile's sums over all steps of the reduction.
// `Math` (mma.cuh, wmma.cuh) has the fragments and the products.
//
// Two buffers in shared memory take turns. Tile s + 1 is loaded into registers before tile
// s is multiplied and stored to the other buffer after it: the loads' way is hidden behind
// the products. One barrier a tile: whoever stores to a buffer has passed the barrier
// after its last reading.
#pragma once

#include "cuda/gemm/sm70/operand.cuh"

namespace gg::cuda::sm70 {

template <typename Math, typename Policy, Major kLeft, Major kRight>
struct TileProduct {
  using LeftLayout = TileLayout<Policy::kTileRows, kLeft, Policy::kThreads>;
  using RightLayout = TileLayout<Policy::kTileColumns, kRight, Policy::kThreads>;
  static constexpr int kBufferElements = LeftLayout::kElements + RightLayout::kElements;
  static constexpr int64_t kSharedBytes = Policy::kSharedBytes;
  static_assert(kBuffers * kBufferElements * 2 <= kSharedBytes);

  // A warp's share of the tile, in patches of 16 x 16.
  static constexpr int kNumWarps = Policy::kThreads / 32;
  static constexpr int kWarpTileRows = Policy::kTileRows / Policy::kWarpRows;
  static constexpr int kWarpTileColumns = Policy::kTileColumns / Policy::kWarpColumns;
  static constexpr int kPatchRows = kWarpTileRows / kPatch;
  static constexpr int kPatchColumns = kWarpTileColumns / kPatch;

  typename Math::Sums sums[kPatchRows][kPatchColumns];

  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ __forceinline__ int first_row() {
    return warp() / Policy::kWarpColumns * kWarpTileRows;
  }
  static __device__ __forceinline__ int first_column() {
    return warp() % Policy::kWarpColumns * kWarpTileColumns;
  }

  // All threads of the block call it; `buffers` is kSharedBytes of shared memory.
  __device__ __forceinline__ void run(const Operand& left, const Operand& right, int num_steps,
                                      __half* buffers) {
    clear();
    Chunks<LeftLayout> left_chunks;
    Chunks<RightLayout> right_chunks;
    const auto load = [&](int first_step) {
      left_chunks.load(left, first_step, num_steps);
      right_chunks.load(right, first_step, num_steps);
    };
    const auto store = [&](__half* buffer) {
      left_chunks.store(buffer);
      right_chunks.store(buffer + LeftLayout::kElements);
    };
    if (num_steps > 0) {
      load(0);
      store(buffers);
    }
    __syncthreads();
    __half* current = buffers;
    __half* next = buffers + kBufferElements;
    for (int step = 0; step < num_steps; step += kTileK) {
      const bool has_next = step + kTileK < num_steps;
      if (has_next) load(step + kTileK);
      multiply(current, current + LeftLayout::kElements);
      if (has_next) store(next);
      __syncthreads();
      __half* const done = current;
      current = next;
      next = done;
    }
  }

 private:
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kPatchRows; ++i) {
#pragma unroll
      for (int j = 0; j < kPatchColumns; ++j) sums[i][j].clear();
    }
  }

  // sums += left right^T of the warp's rows and columns, both tiles in shared memory.
  __device__ __forceinline__ void multiply(const __half* left, const __half* right) {
#pragma unroll
    for (int step = 0; step < kTileK; step += kPatch) {
      typename Math::template Left<LeftLayout> rows[kPatchRows];
#pragma unroll
      for (int i = 0; i < kPatchRows; ++i) {
        rows[i].load(left + LeftLayout::offset(first_row() + i * kPatch, step));
      }
#pragma unroll
      for (int j = 0; j < kPatchColumns; ++j) {
        typename Math::template Right<RightLayout> columns;
        columns.load(right + RightLayout::offset(first_column() + j * kPatch, step));
#pragma unroll
        for (int i = 0; i < kPatchRows; ++i) Math::multiply(sums[i][j], rows[i], columns);
      }
    }
  }
};

}  // namespace gg::cuda::sm70
