// K-grouped GEMM by mma.sync: out[e] = left^T right over the rows of group e, stored, or added to
// what is there. Launched by k_grouped_launch.cu. Start reading at the kernel, at the end, then
// at mainloop.cuh.
//
// Both operands lie across the reduction, and fragments are transposed on their way out of
// shared memory. Rows past a group's end are zeros in both, so that another group's NaN is never
// multiplied by anything.
#pragma once

#include "cuda/gemm/sm80/args.h"
#include "cuda/gemm/sm80/epilogue.cuh"
#include "cuda/gemm/sm80/scheduler.cuh"

namespace gg::cuda::sm80 {

template <typename InType, typename OutType>
struct KGroupedTypes {
  using In = InType;
  using Out = OutType;
};

template <class PolicyType, class Types>
struct KGroupedJob {
  using Policy = PolicyType;
  using In = typename Types::In;
  using Out = typename Types::Out;
  using Tile = KTile;
  using Window = GroupWindow<TilesOfEveryGroup>;
  static constexpr int kTileColumns = Policy::kTileColumns;
  static constexpr int kFewestBlocks = kTileRows / kRowStep;
  static constexpr bool kShortEnds = true;
  using Left = MnMajor<In, kTileRows, Policy::kThreads>;
  using Right = MnMajor<In, kTileColumns, Policy::kThreads>;

  const KGroupedArgs& args;

  // Through a shuffle, so that they stay in registers: each slice would read them again from the
  // kernel's parameters, and its copies wait. (H200, 2026-11-30, bf16: 413 TFLOP/s for 405 cold;
  // M-grouped kernels lose 0.6 %.)
  __device__ __forceinline__ uint32_t left_pitch() const {
    return __shfl_sync(kWholeWarp, args.left.pitch, 0);
  }
  __device__ __forceinline__ uint32_t right_pitch() const {
    return __shfl_sync(kWholeWarp, args.right.pitch, 0);
  }
  __device__ __forceinline__ int row_tiles() const { return divide_up(args.out_rows, kTileRows); }
  __device__ __forceinline__ int column_tiles() const {
    return divide_up(args.out_columns, kTileColumns);
  }

  __device__ __forceinline__ Window window() const {
    return Window(args.groups, args.num_rows,
                  TilesOfEveryGroup{row_tiles() * column_tiles(), args.accumulate}, -1);
  }
  __device__ __forceinline__ Tile find(Window& window, int number) const {
    return k_tile(window.find(number), row_tiles(), column_tiles());
  }

  __device__ __forceinline__ int reduction(const Tile& tile) const { return tile.rows; }
  __device__ __forceinline__ int row_steps(const Tile&) const { return kTileRows / kRowStep; }
  __device__ __forceinline__ Source left(const Tile& tile) const {
    return source(args.left, tile, tile.row_tile * kTileRows, args.out_rows);
  }
  __device__ __forceinline__ Source right(const Tile& tile) const {
    return source(args.right, tile, tile.column_tile * kTileColumns, args.out_columns);
  }
  // An end has no rows, so that nothing is read.
  __device__ __forceinline__ static Source source(const Matrices& operand, const Tile& tile,
                                                  int feature, int num_features) {
    return {operand.begin + uint64_t{static_cast<uint32_t>(tile.row0)} * operand.pitch +
                int64_t{feature} * int{sizeof(In)},
            num_features - feature, tile.rows};
  }

  template <int kBlocks>
  __device__ __forceinline__ void store(const Tile& tile, const Sums<kBlocks>& sums,
                                        const Place& place) const {
    const int row = tile.row_tile * kTileRows, column = tile.column_tile * kTileColumns;
    const Target<Out> target{
        static_cast<Out*>(args.out) + tile.group * args.out_group + row * args.out_pitch + column,
        args.out_pitch,
        args.out_rows - row,
        args.out_columns - column,
        args.whole_chunks,
        args.accumulate};
    store_sums(sums, place, target);
  }
};

template <class Policy, class Types>
__global__ void __launch_bounds__(Policy::kThreads, Policy::kBlocksPerSm)
    k_grouped_gemm(const __grid_constant__ KGroupedArgs args) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  run_job(KGroupedJob<Policy, Types>{args}, args.claims, shared_bytes);
}

}  // namespace gg::cuda::sm80
