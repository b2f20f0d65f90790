// How path sm70 multiplies: the C++ interface to tensor cores, 16 x 16 x 16 at a time. How
// a fragment lies in registers is the compiler's affair (Volta's differs from all later).
#pragma once

#include <mma.h>

#include <type_traits>

#include "cuda/gemm/sm70/layout.h"

namespace gg::cuda::sm70 {

struct Wmma {
  template <typename Role, typename Order, typename Layout>
  struct Fragment {
    nvcuda::wmma::fragment<Role, kPatch, kPatch, kPatch, __half, Order> value;

    // `patch` is the fragment's first element in a tile, a multiple of 32 bytes.
    __device__ __forceinline__ void load(const __half* patch) {
      nvcuda::wmma::load_matrix_sync(value, patch, Layout::kPitch);
    }
  };

  // [outer, steps]
  template <typename Layout>
  using Left = Fragment<nvcuda::wmma::matrix_a,
                        std::conditional_t<Layout::kContiguous == Major::kReduction,
                                           nvcuda::wmma::row_major, nvcuda::wmma::col_major>,
                        Layout>;
  // WMMA's right operand is [steps, outer].
  template <typename Layout>
  using Right = Fragment<nvcuda::wmma::matrix_b,
                         std::conditional_t<Layout::kContiguous == Major::kReduction,
                                            nvcuda::wmma::col_major, nvcuda::wmma::row_major>,
                         Layout>;

  struct Sums {
    nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kPatch, kPatch, kPatch, float> value;

    __device__ __forceinline__ void clear() { nvcuda::wmma::fill_fragment(value, 0.0f); }
    __device__ __forceinline__ void store(float* patch, int pitch) const {
      nvcuda::wmma::store_matrix_sync(patch, value, static_cast<unsigned>(pitch),
                                      nvcuda::wmma::mem_row_major);
    }
  };

  template <typename LeftFragment, typename RightFragment>
  static __device__ __forceinline__ void multiply(Sums& sums, const LeftFragment& left,
                                                  const RightFragment& right) {
    nvcuda::wmma::mma_sync(sums.value, left.value, right.value, sums.value);
  }
};

}  // namespace gg::cuda::sm70
