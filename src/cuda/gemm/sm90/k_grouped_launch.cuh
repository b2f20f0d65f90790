// Defines launch_k_grouped. Included by inst/*.cu, each of which instantiates it once.
#pragma once

#include <type_traits>

#include "cuda/common/dependent_launch.h"
#include "cuda/gemm/sm90/k_grouped.cuh"
#include "cuda/gemm/sm90/k_grouped_launch.h"

namespace gg::cuda::sm90 {

template <typename In, WgradStore kStore>
struct WgradKernel;
template <typename In>
struct WgradKernel<In, WgradStore::kRounded> {
  using Policy = KGroupedWide;
  using Epilogue = RoundedStore<Policy, In>;
};
template <typename In>
struct WgradKernel<In, WgradStore::kFloat> {
  using Policy = KGroupedWide;
  using Epilogue = FloatStore<Policy, false>;
};
template <typename In>
struct WgradKernel<In, WgradStore::kAddRounded> {
  using Policy = KGroupedNarrow;
  using Epilogue = AddStore<Policy, In>;
};
template <typename In>
struct WgradKernel<In, WgradStore::kAddFloat> {
  using Policy = KGroupedNarrow;
  using Epilogue = AddStore<Policy, float>;
};

template <typename In>
struct WgradKernel<In, WgradStore::kAddFloatInL2> {
  using Policy = KGroupedWide;
  using Epilogue = FloatStore<Policy, true>;
};

template <typename In, WgradStore kStore>
void launch_k_grouped(const KGroupedArgs& args, unsigned num_blocks, cudaStream_t stream) {
  using Policy = WgradKernel<In, kStore>::Policy;
  using Memory = KGroupedShared<Policy>;
  static_assert(sizeof(Memory) <= Policy::kSharedBytes);
  const auto kernel = k_grouped_gemm<Policy, In, typename WgradKernel<In, kStore>::Epilogue>;
  launch("gmm_wgrad", kernel, {num_blocks, kThreadsOf<Policy>, sizeof(Memory), /*dependent=*/true},
         stream, args);
}

}  // namespace gg::cuda::sm90
