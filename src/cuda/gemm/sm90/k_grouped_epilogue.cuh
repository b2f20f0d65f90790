// What happens to a K-grouped tile's accumulators. An epilogue belongs to one
// consumer warp (no warp waits for another), and k_grouped.cuh calls it in this order:
//
//   step()             under each k-block of the next tile: a piece of the tile before
//   finish()           after that tile's last k-block: all that is left of the tile before
//   take(acc, place)   a tile is done: keep it, or store it at once
//   zero(place)        instead of a tile whose group is empty; nothing is staged then
//   drain()            at the end of the kernel, after finish()
//
// A warp holds 16 rows of a tile: in acc[4 c + 2 i + j], lane l has row l / 4 + 8 i,
// column 8 c + 2 (l % 4) + j. It leaves in pieces of 128 bytes of each row, by way
// of two slabs of shared memory and the copy engine, which cuts off what lies
// outside of out.
#pragma once

#include "cuda/common/number.cuh"
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

// A warp's way to global memory: fill() one slab while the copy engine reads the
// other, then send() it, best a k-block later, since the fence waits for the fill.
template <bool kAdds>
struct SlabWriter {
  const CUtensorMap& out;
  const uint32_t slabs;
  int slab = 0;

  __device__ __forceinline__ SlabWriter(const CUtensorMap& out, const WarpSlabs& slabs)
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
      if constexpr (kAdds) {
        ptx::add_3d(out, slabs + slab * kSlabBytes, column, row, expert);
      } else {
        ptx::store_3d(out, slabs + slab * kSlabBytes, column, row, expert);
      }
      ptx::commit_stores();
    }
    __syncwarp();
    slab = (slab + 1) % kSlabs;
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

// 16-bit output, rounded to registers so that the next tile starts at once; a piece
// of 64 columns leaves under each of its k-blocks (+12-19 % at 512 rows a group,
// H200, 2026-11-22, gemm_k prototype). kAdds: to what is there, rounded once.
// Missing: old values that are read while the tile is still multiplied.
template <typename T, bool kAdds>
struct DeferredStore {
  static constexpr int kPieceColumns = 64;
  static constexpr bool kSkipsEmpty = kAdds;

  const KGroupedArgs& args;

  SlabWriter<false> writer;
  WarpPlace place{};
  uint32_t packed[KGroupedPolicy::kTileColumns / 4];
  int pieces = 0, filled = 0, sent = 0;

  __device__ DeferredStore(const KGroupedArgs& args, const WarpSlabs& slabs)
      : args(args), writer(args.out, slabs) {}

  template <int kWidth>
  __device__ __forceinline__ void take(const float (&acc)[kWidth / 2], const WarpPlace& finished) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      [[maybe_unused]] const OldRow old(args, finished, lane_index() / 4 + 8 * i);
#pragma unroll
      for (int c = 0; c < kWidth / 8; ++c) {
        float2 sum = make_float2(acc[4 * c + 2 * i], acc[4 * c + 2 * i + 1]);
        if constexpr (kAdds) {
          const float2 before = old.pair(8 * c);
          sum = make_float2(before.x + sum.x, before.y + sum.y);
        }
        packed[2 * c + i] = ptx::pack<T>(sum.x, sum.y);
      }
    }
    place = finished;
    pieces = divide_up(place.columns, kPieceColumns);
    filled = sent = 0;
  }

  // This lane's elements in a row of a warp's part of out, as they were; zeros where
  // there are none.
  struct OldRow {
    const T* source;
    int columns_left;  // from source on

    __device__ __forceinline__ OldRow(const KGroupedArgs& args, const WarpPlace& at, int row) {
      const int column = at.column + lane_index() % 4 * 2;
      source = static_cast<const T*>(args.old) + at.expert * args.old_matrix_pitch +
               (at.row + row) * args.old_row_pitch + column;
      columns_left = at.row + row < args.out_rows ? args.out_columns - column : 0;
    }
    __device__ __forceinline__ float2 pair(int offset) const {
      float2 values = make_float2(0.0f, 0.0f);
      if (offset < columns_left) values.x = to_float(source[offset]);
      if (offset + 1 < columns_left) values.y = to_float(source[offset + 1]);
      return values;
    }
  };

  // Sends the piece filled last time, and fills the next one.
  __device__ __forceinline__ void step() {
    if (sent >= pieces) return;
    if (filled > sent) {
      writer.send(place.expert, place.row, place.column + sent * kPieceColumns);
      ++sent;
    }
    if (filled == pieces) return;
#pragma unroll
    for (int p = 0; p < KGroupedPolicy::kTileColumns / kPieceColumns; ++p) {
      if (p == filled) {  // registers have no run-time index
        writer.fill([&](uint32_t slab) { fill(slab, &packed[p * kPieceColumns / 4]); });
      }
    }
    ++filled;
  }

  // pairs[2 c + i]: the two columns 8 c + 2 (l % 4), + 1 of row l / 4 + 8 i.
  __device__ __forceinline__ static void fill(uint32_t slab, const uint32_t* pairs) {
    const int row = lane_index() % 16;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      ptx::store_matrices(slab + swizzled(row, q * 2 + lane_index() / 16), pairs[q * 4],
                          pairs[q * 4 + 1], pairs[q * 4 + 2], pairs[q * 4 + 3]);
    }
  }

  __device__ __forceinline__ void finish() {
    while (sent < pieces) step();
  }
  __device__ __forceinline__ void zero(const WarpPlace& at) {
    writer.send_zeros(at, kPieceColumns);
  }
  __device__ __forceinline__ void drain() { writer.drain(); }
};

// fp32 output at once, stored or added to what is there (each element once, so the
// result has one order). Adding reaches 0.66 of the floor of reading and writing out;
// old values loaded into the accumulators 0.74, but for ping-pong warpgroups only
// (H200, 2026-11-22, gemm_k prototype).
// Missing: a store that hides under the next tile.
template <bool kAdds>
struct FloatStore {
  static constexpr int kPieceColumns = 32;
  static constexpr bool kSkipsEmpty = kAdds;

  SlabWriter<kAdds> writer;

  __device__ FloatStore(const KGroupedArgs& args, const WarpSlabs& slabs)
      : writer(args.out, slabs) {}

  template <int kWidth>
  __device__ __forceinline__ void take(const float (&acc)[kWidth / 2], const WarpPlace& place) {
#pragma unroll
    for (int c = 0; c < kWidth; c += kPieceColumns) {
      if (c >= place.columns) break;
      writer.fill([&](uint32_t slab) { fill(slab, &acc[c / 2]); });
      writer.send(place.expert, place.row, place.column + c);
    }
  }

  // Odd rows store their blocks of eight columns in another order, so that the
  // eight-byte stores of half a warp hit all banks once.
  __device__ __forceinline__ static void fill(uint32_t slab, const float* acc) {
    const int lane = lane_index(), row = lane / 4;
    const bool is_odd = row & 1;
    const uint32_t low = slab + row * kRowBytes + (lane & 1) * 8;
    const int chunk = (lane >> 1 & 1) ^ (row & 7) ^ (is_odd ? 4 : 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* even = acc + j * 4;
      const float* odd = acc + (j ^ 2) * 4;
      const uint32_t address = low + (((j << 1) ^ chunk) << 4);
      ptx::store_pair(address, is_odd ? odd[0] : even[0], is_odd ? odd[1] : even[1]);
      ptx::store_pair(address + 8 * kRowBytes, is_odd ? odd[2] : even[2],
                      is_odd ? odd[3] : even[3]);
    }
  }

  __device__ __forceinline__ void zero(const WarpPlace& at) {
    if constexpr (!kAdds) writer.send_zeros(at, kPieceColumns);
  }
  __device__ __forceinline__ void step() {}
  __device__ __forceinline__ void finish() {}
  __device__ __forceinline__ void drain() { writer.drain(); }
};

}  // namespace gg::cuda::sm90
