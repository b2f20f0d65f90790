// K-grouped GEMM: out[e] = left^T right over the rows of group e. One thread block an
// output tile of one group; empty groups give zeros, or are left alone when accumulating.
#pragma once

#include "cuda/gemm/group_rows.cuh"
#include "cuda/gemm/sm70/epilogue.cuh"

namespace gg::cuda::sm70 {

template <typename Math, typename Policy>
__global__ void __launch_bounds__(Policy::kThreads) k_grouped(const KGroupedArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int64_t num_row_tiles = base::ceil_div(args.out_rows, Policy::kTileRows);
  const int64_t num_column_tiles = base::ceil_div(args.out_columns, Policy::kTileColumns);
  const int64_t group = blockIdx.x / (num_row_tiles * num_column_tiles);
  const int64_t tile = blockIdx.x % (num_row_tiles * num_column_tiles);
  const int row = static_cast<int>(tile / num_column_tiles) * Policy::kTileRows;
  const int column = static_cast<int>(tile % num_column_tiles) * Policy::kTileColumns;
  const GroupRows rows = rows_of_group<Policy::kThreads>(args.groups, args.num_rows, group);
  if (args.out.accumulate && rows.begin == rows.end) return;

  const Operand left{args.left + rows.begin * args.left_pitch + row, args.left_pitch,
                     args.out_rows - row};
  const Operand right{args.right + rows.begin * args.right_pitch + column, args.right_pitch,
                      args.out_columns - column};
  __half* buffers = reinterpret_cast<__half*>(shared);
  TileProduct<Math, Policy, Major::kOuter, Major::kOuter> product;
  product.run(left, right, static_cast<int>(rows.end - rows.begin), buffers);
  const int64_t corner = group * args.out_group_stride + row * args.out.pitch + column;
  store_tile(product, {moved(args.out, corner), args.out_rows - row, args.out_columns - column},
             buffers);
}

}  // namespace gg::cuda::sm70
