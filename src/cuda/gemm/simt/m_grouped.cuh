// M-grouped GEMM by multiply-adds: out[t] = weights[e] tokens[t] for the rows of each group;
// rows past the last group become zeros. One thread block an output tile; blocks beyond the
// tiles that the sizes ask for leave at once.
#pragma once

#include "cuda/gemm/group_rows.cuh"
#include "cuda/gemm/simt/tile.cuh"

namespace gg::cuda::simt {

template <class Tile, typename In, Inner kWeights, bool kVectors>
__global__ void __launch_bounds__(kThreads, 1) m_grouped_gemm(MGroupedArgs args) {
  extern __shared__ float4 shared_quads[];
  const int64_t num_column_tiles = base::ceil_div(args.num_n, Tile::kColumns);
  const int64_t row_tile = blockIdx.x / num_column_tiles;
  const int64_t column = (blockIdx.x % num_column_tiles) * Tile::kColumns;
  const GroupRows rows = rows_of_tile<kThreads>(args.groups, args.num_rows, Tile::kRows, row_tile);
  if (rows.group < 0) return;

  const ThreadPlace<Tile> place;
  Sums<Tile> sums = {};
  if (rows.group < args.groups.num_groups) {
    const In* tokens = static_cast<const In*>(args.tokens) + rows.begin * args.token_pitch;
    const In* weights = static_cast<const In*>(args.weights) + rows.group * args.weight_stride +
                        (kWeights == Inner::kReduction ? column * args.weight_pitch : column);
    Fetcher<Tile, In, Tile::kRows, Inner::kReduction, kVectors> left{
        {tokens, args.token_pitch, rows.end - rows.begin, args.num_k}};
    Fetcher<Tile, In, Tile::kColumns, kWeights, kVectors> right{
        {weights, args.weight_pitch, args.num_n - column, args.num_k}};
    multiply_tile<Tile>(left, right, reinterpret_cast<Slices<Tile>*>(shared_quads), place,
                        rows.end - rows.begin, sums);
  }
  store_tile<Tile, In>(args.out, rows.begin * args.out.pitch + column, rows.end - rows.begin,
                       args.num_n - column, place, sums);
}

}  // namespace gg::cuda::simt
