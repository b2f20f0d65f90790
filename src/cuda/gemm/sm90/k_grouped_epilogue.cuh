// What happens to a K-grouped tile's accumulators. An epilogue belongs to one consumer
// warp and waits for no other; the consumers (k_grouped_consumer.cuh,
// k_grouped_tf32_consumer.cuh) call it in this order:
//
//   step(place)        under each k-block of a tile: a piece of the tile before
//   finish()           after its last k-block: all that is left of the tile before
//   take(acc, place)   the tile is done: keep it, or store it at once
//   zero(place)        instead of a tile whose group is empty; nothing is staged then
//   drain()            at the end of the kernel, after finish()
//
// A warp holds 16 rows of a tile: in acc[4 c + 2 i + j], lane l has row l / 4 + 8 i,
// column 8 c + 2 (l % 4) + j. It leaves by slab_writer.cuh.
#pragma once

#include "cuda/common/number.cuh"
#include "cuda/gemm/sm90/slab_writer.cuh"

namespace gg::cuda::sm90 {

// Output rounded to 16 bits in registers so that the next tile starts at once; a piece
// of 64 columns leaves under each of its k-blocks (+12-19 % at 512 rows a group, H200,
// 2026-11-22, gemm_k prototype).
template <class Policy, typename T>
struct RoundedStore {
  static constexpr int kPieceColumns = 64;
  static constexpr int kPieces = Policy::kTileColumns / kPieceColumns;
  static constexpr bool kSkipsEmpty = false;
  static constexpr bool kFetchesOld = false;

  SlabWriter<> writer;
  WarpPlace place{};
  uint32_t packed[Policy::kTileColumns / 4];
  int pieces = 0, filled = 0, sent = 0;

  __device__ RoundedStore(const KGroupedArgs& args, KGroupedShared<Policy>& shared, int warp)
      : writer(args.out, shared.slabs[warp]) {}

  template <int kWidth>
  __device__ __forceinline__ void take(const float (&acc)[kWidth / 2], const WarpPlace& finished) {
#pragma unroll
    for (int i = 0; i < kWidth / 4; ++i) packed[i] = ptx::pack<T>(acc[2 * i], acc[2 * i + 1]);
    place = finished;
    pieces = divide_up(place.columns, kPieceColumns);
    filled = sent = 0;
  }

  // Sends the piece filled last time, and fills the next one.
  __device__ __forceinline__ void step(const WarpPlace&) {
    if (sent >= pieces) return;
    if (filled > sent) {
      writer.send(place.expert, place.row, place.column + sent * kPieceColumns);
      ++sent;
    }
    if (filled == pieces) return;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
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
    while (sent < pieces) step(place);
  }
  __device__ __forceinline__ void zero(const WarpPlace& at) {
    writer.send_zeros(at, kPieceColumns);
  }
  __device__ __forceinline__ void drain() { writer.drain(); }
};

// Where a lane's eight-byte pairs of a 16 x 32 slab of fp32 lie: of the row lane / 4
// and the one eight below, columns 8 j + 2 (lane % 4). Odd rows are asked for their
// blocks of eight columns in another order (block()), so that the pairs of half a warp
// lie in different banks.
struct FloatPairs {
  uint32_t low;
  int chunk;
  bool is_odd;

  __device__ __forceinline__ explicit FloatPairs(uint32_t slab) {
    const int lane = lane_index(), row = lane / 4;
    is_odd = row & 1;
    low = slab + row * kRowBytes + (lane & 1) * 8;
    chunk = (lane >> 1 & 1) ^ (row & 7) ^ (is_odd ? 4 : 0);
  }
  __device__ __forceinline__ uint32_t address(int j, int i) const {
    return low + (((j << 1) ^ chunk) << 4) + i * 8 * kRowBytes;
  }
  // words[4 j + 2 i + k] of the block that address(j, i) stands for.
  __device__ __forceinline__ float word(const float* words, int j, int i, int k) const {
    return is_odd ? words[(j ^ 2) * 4 + 2 * i + k] : words[j * 4 + 2 * i + k];
  }
};

// fp32 output. Registers keep the last kKeptColumns of a tile, of which a piece of 32 leaves
// under each k-block of the next one; the columns before them leave at once.
template <class Policy, bool kAddsInL2>
struct FloatStore {
  static constexpr int kPieceColumns = 32;
  static constexpr int kPieceWords = kPieceColumns / 2;
  static constexpr int kKeptColumns = Policy::kKeptColumns;
  static constexpr int kPieces = kKeptColumns / kPieceColumns;
  static constexpr bool kSkipsEmpty = kAddsInL2;
  static constexpr bool kFetchesOld = kAddsInL2;

  SlabWriter<kAddsInL2> writer;
  WarpPlace place{};  // of the kept columns
  float kept[kKeptColumns / 2];
  int pieces = 0, filled = 0, sent = 0;

  __device__ FloatStore(const KGroupedArgs& args, KGroupedShared<Policy>& shared, int warp)
      : writer(args.out, shared.slabs[warp]) {}

  template <int kWidth>
  __device__ __forceinline__ void take(const float (&acc)[kWidth / 2], const WarpPlace& finished) {
    constexpr int kAtOnce = kWidth > kKeptColumns ? kWidth - kKeptColumns : 0;
#pragma unroll
    for (int c = 0; c < kAtOnce; c += SlabWriter<>::kSlabs * kPieceColumns) {
      writer.fill_and_send_all(
          finished.expert, finished.row, finished.column + c, kPieceColumns,
          [&](uint32_t slab, int i) { fill(slab, &acc[c / 2 + i * kPieceWords]); });
    }
#pragma unroll
    for (int i = kAtOnce / 2; i < kWidth / 2; ++i) ptx::move(kept[i - kAtOnce / 2], acc[i]);
    place = finished;
    place.column += kAtOnce;
    pieces = divide_up(place.columns - kAtOnce, kPieceColumns);
    filled = sent = 0;
  }

  // Sends the piece filled last time, and fills the next one.
  __device__ __forceinline__ void step(const WarpPlace&) {
    if (sent >= pieces) return;
    if (filled > sent) {
      writer.send(place.expert, place.row, place.column + sent * kPieceColumns);
      ++sent;
    }
    if (filled == pieces) return;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      if (p == filled) {  // registers have no run-time index
        writer.fill([&](uint32_t slab) { fill(slab, &kept[p * kPieceWords]); });
      }
    }
    ++filled;
  }

  __device__ __forceinline__ static void fill(uint32_t slab, const float* words) {
    const FloatPairs pairs(slab);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ptx::store_pair(pairs.address(j, i), pairs.word(words, j, i, 0),
                        pairs.word(words, j, i, 1));
      }
    }
  }

  __device__ __forceinline__ void finish() {
    while (sent < pieces) step(place);
  }
  __device__ __forceinline__ void zero(const WarpPlace& at) {
    if constexpr (!kAddsInL2) writer.send_zeros(at, kPieceColumns);
  }
  __device__ __forceinline__ void drain() { writer.drain(); }
};

}  // namespace gg::cuda::sm90
