// What a warp keeps in registers: the sums of its part of a tile, the fragments of one step of the
// reduction, and how these are multiplied.
#pragma once

#include "cuda/gemm/sm80/operands.cuh"

namespace gg::cuda::sm80 {

// The sums of one warp: acc[f][c] is a fragment of 16 rows (place.row_block(f)) and 8 columns.
// Thread l holds of it, in [2 i + j], row l / 4 + 8 i and column 2 (l % 4) + j.
template <int kBlocks>
struct Sums {
  float acc[kBlocks][kWarpColumns / 8][4];
};

template <int kBlocks>
struct Fragments {
  LeftFragments<kBlocks> left;
  RightFragments right;
};

// The products of fragment rows [kFrom, kTo). Back and forth, so that neighbours share an operand.
template <typename In, int kFrom, int kTo, int kBlocks>
__device__ __forceinline__ void multiply_rows(const Fragments<kBlocks>& fragments,
                                              Sums<kBlocks>& sums) {
#pragma unroll
  for (int f = kFrom; f < kTo; ++f) {
#pragma unroll
    for (int i = 0; i < kWarpColumns / 8; ++i) {
      const int c = f % 2 == 0 ? i : kWarpColumns / 8 - 1 - i;
      ptx::multiply_add<In>(sums.acc[f][c], fragments.left.words[f], fragments.right.words[c]);
    }
  }
}

}  // namespace gg::cuda::sm80
