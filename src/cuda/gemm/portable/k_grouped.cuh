// K-grouped GEMM, portable: out[e] = sum over the rows t of group e of
// dy[t] outer tokens[t]. One thread block an output tile of one group; empty
// groups give zeros, or are left alone when accumulating.
#pragma once

#include "cuda/gemm/group_rows.cuh"
#include "cuda/gemm/portable/tile.cuh"

namespace gg::cuda::portable {

struct KGroupedArgs {
  const void* dy;      // [T, N]
  const void* tokens;  // [T, K]
  void* out;           // [E, N, K]
  DeviceGroups groups;
  int64_t num_rows;  // T
  int64_t num_n;
  int64_t num_k;
  int64_t dy_strides[2];
  int64_t token_strides[2];
  int64_t out_strides[3];
  bool accumulate;
};

template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads) k_grouped_gemm(KGroupedArgs args) {
  const int64_t num_row_tiles = base::ceil_div(args.num_n, kTile);
  const int64_t num_column_tiles = base::ceil_div(args.num_k, kTile);
  const int64_t group = blockIdx.x / (num_row_tiles * num_column_tiles);
  const int64_t tile = blockIdx.x % (num_row_tiles * num_column_tiles);
  const int64_t n_begin = tile / num_column_tiles * kTile;
  const int64_t k_begin = tile % num_column_tiles * kTile;
  const GroupRows rows = rows_of_group<kThreads>(args.groups, args.num_rows, group);
  if (args.accumulate && rows.begin == rows.end) return;

  float sums[kPerThread][kPerThread] = {};
  const Operand dy{args.dy, args.dy_strides[1], args.dy_strides[0], n_begin, args.num_n};
  const Operand tokens{args.tokens, args.token_strides[1], args.token_strides[0], k_begin,
                       args.num_k};
  multiply_tile<In>(dy, tokens, rows.begin, rows.end, sums);
  store_tile(sums, static_cast<Out*>(args.out) + group * args.out_strides[0], args.out_strides[1],
             args.out_strides[2], n_begin, args.num_n, k_begin, args.num_k, args.accumulate);
}

}  // namespace gg::cuda::portable
