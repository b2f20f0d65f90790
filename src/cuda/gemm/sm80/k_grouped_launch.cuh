// Defines launch_k_grouped. Included by inst/*.cu, each of which instantiates it once.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/gemm/sm80/k_grouped.cuh"
#include "cuda/gemm/sm80/launch.h"

namespace gg::cuda::sm80 {

template <class Policy, class Types>
void launch_k_grouped_of(const KGroupedArgs& args, const Launch& launch) {
  const auto kernel = k_grouped_gemm<Policy, Types>;
  constexpr int kBytes = kSharedBytes<KGroupedJob<Policy, Types>>;
  allow_shared_bytes("gmm_wgrad", kernel, kBytes);
  kernel<<<launch.num_blocks, Policy::kThreads, kBytes, launch.stream>>>(args);
  check_launch("gmm_wgrad");
}

template <typename In, typename Out>
void launch_k_grouped(const KGroupedArgs& args, const Launch& launch) {
  using Types = KGroupedTypes<In, Out>;
  if (launch.has<Wide>()) return launch_k_grouped_of<Wide, Types>(args, launch);
  if (launch.has<Deep>()) return launch_k_grouped_of<Deep, Types>(args, launch);
  launch_k_grouped_of<Pair, Types>(args, launch);
}

}  // namespace gg::cuda::sm80
