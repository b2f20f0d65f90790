// Defines launch_k_grouped. Included by inst/*.cu, each of which instantiates it once.
#pragma once

#include <type_traits>

#include "cuda/common/dependent_launch.h"
#include "cuda/gemm/sm90/k_grouped.cuh"
#include "cuda/gemm/sm90/k_grouped_consumer.cuh"
#include "cuda/gemm/sm90/k_grouped_launch.h"
#include "cuda/gemm/sm90/k_grouped_tf32_consumer.cuh"

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

template <>
struct WgradKernel<float, WgradStore::kFloat> {
  using Policy = KGroupedTf32;
  using Epilogue = FloatStore<Policy, false>;
};
template <>
struct WgradKernel<float, WgradStore::kAddFloatInL2> {
  using Policy = KGroupedTf32;
  using Epilogue = FloatStore<Policy, true>;
};

template <typename In, class Policy, class Epilogue>
using KGroupedConsumerOf =
    std::conditional_t<std::is_same_v<In, float>, KGroupedTf32Consumer<Policy, Epilogue>,
                       KGroupedConsumer<Policy, In, Epilogue>>;

template <typename In, WgradStore kStore>
void launch_k_grouped(const KGroupedArgs& args, unsigned num_blocks, cudaStream_t stream) {
  using Policy = WgradKernel<In, kStore>::Policy;
  using Consumer = KGroupedConsumerOf<In, Policy, typename WgradKernel<In, kStore>::Epilogue>;
  using Memory = typename Consumer::Memory;
  static_assert(sizeof(Memory) <= Policy::kSharedBytes);
  const auto kernel = k_grouped_gemm<Policy, Consumer>;
  launch("gmm_wgrad", kernel, {num_blocks, kThreadsOf<Policy>, sizeof(Memory), /*dependent=*/true},
         stream, args);
}

}  // namespace gg::cuda::sm90
