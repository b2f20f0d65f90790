// How path sm75 multiplies: fragments by ldmatrix, products by mma.sync m16n8k8. A fragment
// is 16 outer x 16 steps in four parts of 8 x 8, the same for both operands: parts[2 s + h]
// has half h of outer and half s of the steps.
#pragma once

#include "cuda/gemm/sm70/layout.h"
#include "cuda/gemm/sm70/ptx.cuh"

namespace gg::cuda::sm70 {

struct Mma {
  template <typename Layout>
  struct Fragment {
    uint32_t parts[4];

    // `patch` is the fragment's first element in a tile.
    __device__ __forceinline__ void load(const __half* patch) {
      const uint32_t address = shared_address(patch + Layout::lane_offset(threadIdx.x % 32));
      if constexpr (Layout::kContiguous == Major::kReduction) {
        ldmatrix_x4(parts, address);
      } else {
        ldmatrix_x4_trans(parts, address);
      }
    }
  };
  template <typename Layout>
  using Left = Fragment<Layout>;
  template <typename Layout>
  using Right = Fragment<Layout>;

  // 16 x 16 sums: columns 0-7, then 8-15.
  struct Sums {
    float values[2][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i / 4][i % 4] = 0.0f;
    }

    __device__ __forceinline__ void store(float* patch, int pitch) const {
      const int lane = threadIdx.x % 32;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          *reinterpret_cast<float2*>(patch + sum_row(lane, i) * pitch + half * 8 +
                                     sum_column(lane, i)) =
              make_float2(values[half][i], values[half][i + 1]);
        }
      }
    }
  };

  template <typename LeftFragment, typename RightFragment>
  static __device__ __forceinline__ void multiply(Sums& sums, const LeftFragment& left,
                                                  const RightFragment& right) {
#pragma unroll
    for (int steps = 0; steps < 2; ++steps) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma_m16n8k8(sums.values[half], left.parts[2 * steps], left.parts[2 * steps + 1],
                    right.parts[2 * steps + half]);
      }
    }
  }
};

}  // namespace gg::cuda::sm70
