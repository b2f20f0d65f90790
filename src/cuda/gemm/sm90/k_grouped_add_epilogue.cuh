// Output of the K-grouped kernel added to what is there, fp32 or 16 bits (rounded once).
// Each element is added to once, so the result has one order.
//
// A courier, one more thread, has the copy engine bring old values into slabs of shared
// memory while the tile that they belong to is still multiplied. Under the next tile each
// consumer warp adds its sums to them there, and the courier has them taken back. So the
// consumers wait for nothing of this. Against the floor of reading and writing out, the
// copy engine's own addition in L2 reaches 0.6, old values that threads load 0.25 to 0.6,
// loads and stores issued by the consumers 0.6 to 0.8 (H200, 2026-11-22).
#pragma once

#include "cuda/gemm/sm90/k_grouped_epilogue.cuh"

namespace gg::cuda::sm90 {

// A piece: 16 rows of a warp, 128 bytes each.
template <class Policy, typename T>
struct AddPieces {
  static constexpr int kColumns = kRowBytes / int{sizeof(T)};
  static constexpr int kPerTile = Policy::kTileColumns / kColumns;

  __device__ __forceinline__ static int of(int columns) { return divide_up(columns, kColumns); }
};

// One thread.
template <class Policy, typename T>
struct Courier {
  using Pieces = AddPieces<Policy, T>;
  static_assert(Pieces::kPerTile <= Policy::kSlabs, "all pieces of a tile wait in slabs at once");

  KGroupedShared<Policy>& shared;
  const KGroupedArgs& args;
  Cursor<Policy::kSlabs> load_at[Policy::kConsumers], store_at[Policy::kConsumers];
  int taken = 0;  // slabs of a warp whose piece is not on its way back yet

  __device__ __forceinline__ bool has_rows(const KGroupedTile& tile, int warpgroup) const {
    return tile.out_row + warpgroup * 64 < args.out_rows;
  }

  // NOTE: the slab is that of the piece kSlabs before.
  __device__ __forceinline__ void load(const KGroupedTile& tile, int piece) {
    if (taken < Policy::kSlabs - 1) {
      ptx::wait_stores_read<1>();  // of that piece, and of one more
    } else {
      ptx::wait_stores_read<0>();
    }
#pragma unroll
    for (int g = 0; g < Policy::kConsumers; ++g) {
      if (!has_rows(tile, g)) continue;
      for (int w = g * 4; w < g * 4 + 4; ++w) {
        const uint64_t& loaded = shared.slab_loaded[w][load_at[g].slot];
        ptx::mbarrier_arrive_expect(loaded, kSlabBytes);
        ptx::load_3d(ptx::shared_address(shared.slabs[w][load_at[g].slot]), args.out, loaded,
                     tile.out_column + piece * Pieces::kColumns, tile.out_row + w * kWarpRows,
                     tile.expert);
      }
      load_at[g].next();
    }
    ++taken;
  }

  __device__ __forceinline__ void store(const KGroupedTile& tile, int piece) {
#pragma unroll
    for (int g = 0; g < Policy::kConsumers; ++g) {
      if (!has_rows(tile, g)) continue;
      for (int w = g * 4; w < g * 4 + 4; ++w) {
        ptx::mbarrier_wait(shared.slab_added[w][store_at[g].slot], store_at[g].parity);
        ptx::store_3d(args.out, ptx::shared_address(shared.slabs[w][store_at[g].slot]),
                      tile.out_column + piece * Pieces::kColumns, tile.out_row + w * kWarpRows,
                      tile.expert);
      }
      store_at[g].next();
    }
    ptx::commit_stores();
    --taken;
  }

  // Old values of each tile are loaded while the sums of the one before are stored; early,
  // as long as the slab's last store is not the one just sent.
  __device__ __forceinline__ void run() {
    KGroupedTile before{};
    int left = 0;  // pieces of the tile before
    for (Cursor<kTileRing> ring;; ring.next()) {
      ptx::mbarrier_wait(shared.tile_full[ring.slot], ring.parity);
      const KGroupedTile tile = shared.tile[ring.slot];
      if (!tile.is_end()) ptx::mbarrier_arrive(shared.tile_read[ring.slot]);
      const int pieces = tile.is_end() ? 0 : Pieces::of(tile.columns);
      int loaded = 0, stored = 0;
      while (loaded < pieces || stored < left) {
        const bool loads = loaded < pieces && (taken < Policy::kSlabs - 1 || stored == left);
        if (loads) {
          load(tile, loaded++);
        } else {
          store(before, stored++);
        }
      }
      if (tile.is_end()) break;
      before = tile;
      left = pieces;
    }
    ptx::wait_stores();
  }
};

// Calls as in k_grouped_epilogue.cuh.
template <class Policy, typename T>
struct AddStore {
  using Pieces = AddPieces<Policy, T>;
  using Carrier = Courier<Policy, T>;
  static constexpr int kPieceWords = Pieces::kColumns / 2;
  static constexpr bool kSkipsEmpty = true;
  static constexpr bool kFetchesOld = false;

  KGroupedShared<Policy>& shared;
  const int warp;  // of all consumer warps
  float kept[Policy::kTileColumns / 2];
  int pieces = 0, added = 0, announced = 0;  // of the kept tile
  Cursor<Policy::kSlabs> add_at;
  int announce_slab = 0;

  __device__ AddStore(const KGroupedArgs&, KGroupedShared<Policy>& shared, int warp)
      : shared(shared), warp(warp) {}

  template <int kWidth>
  __device__ __forceinline__ void take(const float (&acc)[kWidth / 2], const WarpPlace& finished) {
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) ptx::move(kept[i], acc[i]);
    pieces = Pieces::of(finished.columns);
    added = announced = 0;
  }

  // Announces the piece added last time, since the fence waits for what was written, and
  // adds the next one.
  __device__ __forceinline__ void step(const WarpPlace&) {
    if (announced >= pieces) return;
    if (added > announced) {
      ptx::fence_proxy_async();
      __syncwarp();  // every lane has added
      if (lane_index() == 0) ptx::mbarrier_arrive(shared.slab_added[warp][announce_slab]);
      announce_slab = announce_slab + 1 == Policy::kSlabs ? 0 : announce_slab + 1;
      ++announced;
    }
    if (added < pieces) {
#pragma unroll
      for (int p = 0; p < Pieces::kPerTile; ++p) {
        if (p == added) add_piece(&kept[p * kPieceWords]);  // registers have no run-time index
      }
      ++added;
    }
  }
  __device__ __forceinline__ void finish() {
    while (announced < pieces) step({});
  }
  __device__ __forceinline__ void zero(const WarpPlace&) {}
  __device__ __forceinline__ void drain() {}

  __device__ __forceinline__ void add_piece(const float* words) {
    ptx::mbarrier_wait(shared.slab_loaded[warp][add_at.slot], add_at.parity);
    add(ptx::shared_address(shared.slabs[warp][add_at.slot]), words);
    add_at.next();
  }

  // words[4 c + 2 i + j]: column 8 c + 2 (l % 4) + j of row l / 4 + 8 i.
  __device__ __forceinline__ static void add(uint32_t slab, const float* words) {
    if constexpr (sizeof(T) == 4) {
      const FloatPairs pairs(slab);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t address = pairs.address(j, i);
          const float2 old = ptx::load_pair(address);
          ptx::store_pair(address, old.x + pairs.word(words, j, i, 0),
                          old.y + pairs.word(words, j, i, 1));
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = lane_index() / 4 + 8 * i;
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          const uint32_t address = slab + swizzled(row, c) + lane_index() % 4 * 4;
          const float2 old = ptx::unpack<T>(ptx::load_word(address));
          ptx::store_word(address, ptx::pack<T>(old.x + words[4 * c + 2 * i],
                                                old.y + words[4 * c + 2 * i + 1]));
        }
      }
    }
  }
};

}  // namespace gg::cuda::sm90
