// M-grouped GEMM: out[t] = weights[e] tokens[t] for the rows of each group; rows past the
// last group become zeros. One thread block an output tile, cut at its group's end; blocks
// beyond the tiles that the sizes ask for leave at once.
#pragma once

#include "cuda/gemm/group_rows.cuh"
#include "cuda/gemm/sm70/epilogue.cuh"

namespace gg::cuda::sm70 {

template <typename Math, typename Policy, Major kWeights>
__global__ void __launch_bounds__(Policy::kThreads) m_grouped(const MGroupedArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int num_column_tiles = static_cast<int>(base::ceil_div(args.num_n, Policy::kTileColumns));
  const int row_tile = static_cast<int>(blockIdx.x) / num_column_tiles;
  const int column = static_cast<int>(blockIdx.x) % num_column_tiles * Policy::kTileColumns;
  const GroupRows rows =
      rows_of_tile<Policy::kThreads>(args.groups, args.num_rows, Policy::kTileRows, row_tile);
  if (rows.group < 0) return;

  // The rows past the last group are a group without weights: no steps, sums of zero.
  const bool has_weights = rows.group < args.groups.num_groups;
  const int num_tile_rows = static_cast<int>(rows.end - rows.begin);
  const int64_t first_weight =
      column * (kWeights == Major::kReduction ? args.weight_pitch : int64_t{1});
  const Operand tokens{args.tokens + rows.begin * args.token_pitch, args.token_pitch,
                       num_tile_rows};
  const Operand weights{
      args.weights + (has_weights ? rows.group * args.weight_group_stride + first_weight : 0),
      args.weight_pitch, args.num_n - column};
  __half* buffers = reinterpret_cast<__half*>(shared);
  TileProduct<Math, Policy, Major::kReduction, kWeights> product;
  product.run(tokens, weights, has_weights ? args.num_k : 0, buffers);
  store_tile(
      product,
      {moved(args.out, rows.begin * args.out.pitch + column), num_tile_rows, args.num_n - column},
      buffers);
}

}  // namespace gg::cuda::sm70
