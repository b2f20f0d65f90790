// K-grouped GEMM by multiply-adds: out[e] = left^T right over the rows of group e. One
// thread block an output tile of one group; empty groups give zeros, or are left alone
// when accumulating.
#pragma once

#include "cuda/gemm/group_rows.cuh"
#include "cuda/gemm/simt/tile.cuh"

namespace gg::cuda::simt {

template <class Tile, typename In, bool kVectors>
__global__ void __launch_bounds__(kThreads, 1) k_grouped_gemm(KGroupedArgs args) {
  extern __shared__ float4 shared_quads[];
  const int64_t num_row_tiles = base::ceil_div(args.out_rows, Tile::kRows);
  const int64_t num_column_tiles = base::ceil_div(args.out_columns, Tile::kColumns);
  const int64_t group = blockIdx.x / (num_row_tiles * num_column_tiles);
  const int64_t tile = blockIdx.x % (num_row_tiles * num_column_tiles);
  const int64_t row = tile / num_column_tiles * Tile::kRows;
  const int64_t column = tile % num_column_tiles * Tile::kColumns;
  const GroupRows rows = rows_of_group<kThreads>(args.groups, args.num_rows, group);
  if (args.out.accumulate && rows.begin == rows.end) return;

  const ThreadPlace<Tile> place;
  Sums<Tile> sums = {};
  const In* left_data = static_cast<const In*>(args.left) + rows.begin * args.left_pitch + row;
  const In* right_data =
      static_cast<const In*>(args.right) + rows.begin * args.right_pitch + column;
  Fetcher<Tile, In, Tile::kRows, Inner::kOuter, kVectors> left{
      {left_data, args.left_pitch, args.out_rows - row, rows.end - rows.begin}};
  Fetcher<Tile, In, Tile::kColumns, Inner::kOuter, kVectors> right{
      {right_data, args.right_pitch, args.out_columns - column, rows.end - rows.begin}};
  multiply_rows<Tile, Tile::kThreadRows>(left, right, reinterpret_cast<Slices<Tile>*>(shared_quads),
                                         place, sums);
  store_tile<Tile, In>(args.out, group * args.out.matrix_stride + row * args.out.pitch + column,
                       args.out_rows - row, args.out_columns - column, place, sums);
}

}  // namespace gg::cuda::simt
