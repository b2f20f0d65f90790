// Defines the launchers. Included by inst/*.cu, one for each element type and pass.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/gemm/simt/k_grouped.cuh"
#include "cuda/gemm/simt/launch.h"
#include "cuda/gemm/simt/m_grouped.cuh"

namespace gg::cuda::simt {

template <class Tile, typename Args>
void launch(const char* op, void (*kernel)(Args), const Args& args, unsigned num_blocks,
            cudaStream_t stream) {
  constexpr int kSharedBytes = 2 * sizeof(Slices<Tile>);
  allow_shared_bytes(op, kernel, kSharedBytes);
  kernel<<<num_blocks, kThreads, kSharedBytes, stream>>>(args);
  check_launch(op);
}

template <class Tile, typename In, Inner kWeights>
void launch_m_grouped_with(bool vectors, const MGroupedArgs& args, unsigned num_blocks,
                           cudaStream_t stream) {
  launch<Tile>("gmm",
               vectors ? m_grouped_gemm<Tile, In, kWeights, true>
                       : m_grouped_gemm<Tile, In, kWeights, false>,
               args, num_blocks, stream);
}

template <typename In>
void launch_m_grouped(const Variant& variant, const MGroupedArgs& args, unsigned num_blocks,
                      cudaStream_t stream) {
  const bool along_k = variant.weights == Inner::kReduction;
  const auto launcher = variant.is_large
                            ? (along_k ? launch_m_grouped_with<LargeTile, In, Inner::kReduction>
                                       : launch_m_grouped_with<LargeTile, In, Inner::kOuter>)
                            : (along_k ? launch_m_grouped_with<SmallTile, In, Inner::kReduction>
                                       : launch_m_grouped_with<SmallTile, In, Inner::kOuter>);
  launcher(variant.has_vectors, args, num_blocks, stream);
}

template <class Tile, typename In>
void launch_k_grouped_with(bool vectors, const KGroupedArgs& args, unsigned num_blocks,
                           cudaStream_t stream) {
  launch<Tile>("gmm_wgrad",
               vectors ? k_grouped_gemm<Tile, In, true> : k_grouped_gemm<Tile, In, false>, args,
               num_blocks, stream);
}

template <typename In>
void launch_k_grouped(const Variant& variant, const KGroupedArgs& args, unsigned num_blocks,
                      cudaStream_t stream) {
  const auto launcher = variant.is_large ? launch_k_grouped_with<LargeTile, In>
                                         : launch_k_grouped_with<SmallTile, In>;
  launcher(variant.has_vectors, args, num_blocks, stream);
}

}  // namespace gg::cuda::simt
