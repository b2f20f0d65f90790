// Defines launch_m_grouped. Included by inst/*.cu, each of which instantiates it once.
#pragma once

#include <type_traits>

#include "cuda/common/dependent_launch.h"
#include "cuda/gemm/sm90/launch.h"
#include "cuda/gemm/sm90/m_grouped.cuh"
#include "cuda/gemm/sm90/thread_store.cuh"

namespace gg::cuda::sm90 {

template <typename Out, StoreBy kStore>
using EpilogueOf = std::conditional_t<
    kStore == StoreBy::kCopyEngine, CopyEngineStore<Out>,
    std::conditional_t<std::is_same_v<Out, float>, ThreadStoreFloat, ThreadStore<Out>>>;

template <typename In>
using PolicyOf = std::conditional_t<std::is_same_v<In, float>, Tf32Policy, GeneralPolicy>;

template <typename In, WeightMajor kMajor, typename Out, StoreBy kStore>
void launch_m_grouped(const MGroupedArgs& args, unsigned num_blocks, cudaStream_t stream) {
  using Policy = PolicyOf<In>;
  static_assert(sizeof(Shared<Policy>) <= Policy::kSharedBytes);
  const auto kernel = m_grouped_gemm<Policy, OperandTypes<In, kMajor>, EpilogueOf<Out, kStore>>;
  launch("gmm", kernel, {num_blocks, kThreads, sizeof(Shared<Policy>), /*dependent=*/true}, stream,
         args);
}

}  // namespace gg::cuda::sm90
