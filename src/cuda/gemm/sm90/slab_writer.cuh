// How a warp's rows of a K-grouped tile reach global memory: in pieces of 128 bytes of each
// row, by way of slabs of shared memory and the copy engine, which cuts off what lies
// outside of out. Called by the epilogues, k_grouped_epilogue.cuh and
// k_grouped_add_epilogue.cuh.
#pragma once

#include "cuda/gemm/sm90/k_grouped_scheduler.cuh"

namespace gg::cuda::sm90 {

// Where a warp's 16 rows of a tile go.
struct WarpPlace {
  int expert;
  int row;
  int column;
  int columns;  // at most 256
};

// Byte of the 16-byte chunk of a row in the 128-byte swizzle.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row & 7)) << 4);
}

// A warp's way to global memory, there stored or added: fill() one slab while the copy
// engine reads the other, then send() it, best a k-block later, since the fence waits
// for the fill.
template <bool kAdds = false>
struct SlabWriter {
  static constexpr int kSlabs = KGroupedWide::kSlabs;

  const CUtensorMap& out;
  const uint32_t slabs;
  int slab = 0;

  __device__ __forceinline__ SlabWriter(const CUtensorMap& out,
                                        const uint8_t (&slabs)[kSlabs][kSlabBytes])
      : out(out), slabs(ptx::shared_address(slabs)) {}

  // NOTE: every fill is sent before the next fill, by the same thread, whose count
  // of pending stores tells when a slab has been read.
  template <class Fill>
  __device__ __forceinline__ void fill(const Fill& fill_slab) {
    if (ptx::elect()) ptx::wait_stores_read<kSlabs - 1>();
    __syncwarp();  // the slab is free
    fill_slab(slabs + slab * kSlabBytes);
  }

  __device__ __forceinline__ void send(int expert, int row, int column) {
    ptx::fence_proxy_async();
    __syncwarp();  // the slab is full
    if (ptx::elect()) {
      put(slabs + slab * kSlabBytes, expert, row, column);
      ptx::commit_stores();
    }
    __syncwarp();
    slab = (slab + 1) % kSlabs;
  }

  // One thread.
  __device__ __forceinline__ void put(uint32_t slab, int expert, int row, int column) const {
    if constexpr (kAdds) {
      ptx::add_3d(out, slab, column, row, expert);
    } else {
      ptx::store_3d(out, slab, column, row, expert);
    }
  }

  // All slabs at once, which spares fences: fill_slab(address, i) for slab i.
  template <class Fill>
  __device__ __forceinline__ void fill_and_send_all(int expert, int row, int column,
                                                    int piece_columns, const Fill& fill_slab) {
    if (ptx::elect()) ptx::wait_stores_read<0>();
    __syncwarp();  // the slabs are free
#pragma unroll
    for (int i = 0; i < kSlabs; ++i) fill_slab(slabs + i * kSlabBytes, i);
    ptx::fence_proxy_async();
    __syncwarp();  // they are full
    if (ptx::elect()) {
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        put(slabs + i * kSlabBytes, expert, row, column + i * piece_columns);
        ptx::commit_stores();
      }
    }
    __syncwarp();
    slab = 0;
  }

  // One zeroed slab stored everywhere.
  __device__ __forceinline__ void send_zeros(const WarpPlace& place, int piece_columns) {
    if (ptx::elect()) ptx::wait_stores_read<0>();
    __syncwarp();  // both slabs are free
    for (int b = lane_index() * 16; b < kSlabBytes; b += 32 * 16) {
      ptx::store_16_zero_bytes(slabs + b);
    }
    ptx::fence_proxy_async();
    __syncwarp();
    if (ptx::elect()) {
      for (int c = 0; c < place.columns; c += piece_columns) {
        ptx::store_3d(out, slabs, place.column + c, place.row, place.expert);
      }
      ptx::commit_stores();
      ptx::wait_stores_read<0>();
    }
    __syncwarp();
  }

  __device__ __forceinline__ void drain() {
    if (ptx::elect()) ptx::wait_stores();
  }
};

}  // namespace gg::cuda::sm90
