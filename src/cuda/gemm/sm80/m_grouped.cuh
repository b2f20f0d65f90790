// M-grouped GEMM by mma.sync: out[t] = weights[e] tokens[t] for the rows t of each group e; rows
// past the last group become zeros. Launched by launch.cu. Start reading at the kernel, at the
// end, then at mainloop.cuh.
//
// The ragged end of a group costs no padding: its rows are cut into equal tiles of 32, 64, 96 or
// 128, and a warp multiplies as many blocks of 16 rows as the tile has. Rows of a tile that
// belong to no group are zeros in shared memory and are not stored.
#pragma once

#include "cuda/gemm/sm80/args.h"
#include "cuda/gemm/sm80/epilogue.cuh"
#include "cuda/gemm/sm80/scheduler.cuh"

namespace gg::cuda::sm80 {

template <typename InType, WeightMajor kWeightMajor, typename OutType>
struct MGroupedTypes {
  using In = InType;
  using Out = OutType;
  static constexpr WeightMajor kMajor = kWeightMajor;
};

template <class PolicyType, class Types>
struct MGroupedJob {
  using Policy = PolicyType;
  using In = typename Types::In;
  using Out = typename Types::Out;
  using Tile = MTile;
  using Window = GroupWindow<TokenTiles>;
  static constexpr int kTileColumns = Policy::kTileColumns;
  static constexpr bool kKMajor = Types::kMajor == WeightMajor::kK;
  static constexpr int kFewestBlocks = 1;
  static constexpr bool kShortEnds = false;  // K is mostly whole slices
  using Left = KMajor<In, kTileRows, Policy::kThreads>;
  using Right = std::conditional_t<kKMajor, KMajor<In, kTileColumns, Policy::kThreads>,
                                   MnMajor<In, kTileColumns, Policy::kThreads>>;

  const MGroupedArgs& args;

  __device__ __forceinline__ uint32_t left_pitch() const { return args.tokens.pitch; }
  __device__ __forceinline__ uint32_t right_pitch() const { return args.weights.pitch; }
  __device__ __forceinline__ int feature_tiles() const {
    return divide_up(args.num_n, kTileColumns);
  }

  __device__ __forceinline__ Window window() const {
    return Window(args.groups, args.num_rows, TokenTiles{feature_tiles()}, -1);
  }
  __device__ __forceinline__ Tile find(Window& window, int number) const {
    return m_tile(window.find(number), feature_tiles());
  }

  __device__ __forceinline__ int reduction(const Tile&) const { return args.num_k; }
  __device__ __forceinline__ int row_steps(const Tile& tile) const {
    return divide_up(tile.rows, kRowStep);
  }
  __device__ __forceinline__ Source left(const Tile& tile) const {
    return {args.tokens.begin + uint64_t{static_cast<uint32_t>(tile.row0)} * args.tokens.pitch,
            tile.rows, args.num_k};
  }
  __device__ __forceinline__ Source right(const Tile& tile) const {
    if (tile.is_end()) return {args.weights.begin, 0, 0};
    const uint32_t feature = tile.feature_tile * kTileColumns;
    return {args.weights.begin + tile.group * args.weights.matrix_bytes +
                feature * (kKMajor ? uint64_t{args.weights.pitch} : sizeof(In)),
            args.num_n - static_cast<int>(feature), args.num_k};
  }

  template <int kBlocks>
  __device__ __forceinline__ void store(const Tile& tile, const Sums<kBlocks>& sums,
                                        const Place& place) const {
    const int column = tile.feature_tile * kTileColumns;
    const Target<Out> target{static_cast<Out*>(args.out) + tile.row0 * args.out_pitch + column,
                             args.out_pitch,
                             tile.rows,
                             args.num_n - column,
                             args.whole_chunks,
                             false};
    store_sums(sums, place, target);
  }
};

// Rows that belong to no group; each block takes a share. `last_row`: where the last group ends.
template <typename Out>
__device__ __forceinline__ void zero_rows(const MGroupedArgs& args, int last_row) {
  const int64_t count = int64_t{args.num_rows - last_row} * args.num_n;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t row = i / args.num_n;
    Out* const begin = static_cast<Out*>(args.out) + (last_row + row) * args.out_pitch;
    begin[i - row * args.num_n] = from_float<Out>(0.0f);
  }
}

template <class Policy, class Types>
__global__ void __launch_bounds__(Policy::kThreads, Policy::kBlocksPerSm)
    m_grouped_gemm(const __grid_constant__ MGroupedArgs args) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  using Job = MGroupedJob<Policy, Types>;
  const auto& shared = run_job(Job{args}, args.claims, shared_bytes);
  __syncthreads();
  // Whoever has come to the end of the tiles has seen the end of the last group.
  zero_rows<typename Types::Out>(args, shared.window[0].last_row);
}

}  // namespace gg::cuda::sm80
