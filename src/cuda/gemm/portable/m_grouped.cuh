// M-grouped GEMM, portable: out[t] = weights[e] tokens[t] for the rows of each
// group; rows past the last group become zeros. One thread block an output tile;
// blocks beyond the tiles that the sizes ask for leave at once.
#pragma once

#include "cuda/gemm/group_rows.cuh"
#include "cuda/gemm/portable/tile.cuh"

namespace gg::cuda::portable {

struct MGroupedArgs {
  const void* tokens;   // [T, K]
  const void* weights;  // [E, N, K]
  void* out;            // [T, N]
  DeviceGroups groups;
  int64_t num_rows;  // T
  int64_t num_n;
  int64_t num_k;
  int64_t token_strides[2];
  int64_t weight_strides[3];
  int64_t out_strides[2];
};

template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads) m_grouped_gemm(MGroupedArgs args) {
  const int64_t num_column_tiles = base::ceil_div(args.num_n, kTile);
  const int64_t row_tile = blockIdx.x / num_column_tiles;
  const int64_t column_begin = (blockIdx.x % num_column_tiles) * kTile;
  const GroupRows rows = rows_of_tile<kThreads>(args.groups, args.num_rows, kTile, row_tile);
  if (rows.group < 0) return;

  float sums[kPerThread][kPerThread] = {};
  if (rows.group < args.groups.num_groups) {
    const In* weights = static_cast<const In*>(args.weights) + rows.group * args.weight_strides[0];
    const Operand tokens{args.tokens, args.token_strides[0], args.token_strides[1], rows.begin,
                         rows.end};
    const Operand features{weights, args.weight_strides[1], args.weight_strides[2], column_begin,
                           args.num_n};
    multiply_tile<In>(tokens, features, 0, args.num_k, sums);
  }
  store_tile(sums, static_cast<Out*>(args.out), args.out_strides[0], args.out_strides[1],
             rows.begin, rows.end, column_begin, args.num_n, false);
}

}  // namespace gg::cuda::portable
