// Defines launch_m_grouped. Included by inst/*.cu, each of which instantiates it once.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/gemm/sm80/launch.h"
#include "cuda/gemm/sm80/m_grouped.cuh"

namespace gg::cuda::sm80 {

template <class Policy, class Types>
void launch_m_grouped_of(const MGroupedArgs& args, const Launch& launch) {
  const auto kernel = m_grouped_gemm<Policy, Types>;
  constexpr int kBytes = kSharedBytes<MGroupedJob<Policy, Types>>;
  allow_shared_bytes("gmm", kernel, kBytes);
  kernel<<<launch.num_blocks, Policy::kThreads, kBytes, launch.stream>>>(args);
  check_launch("gmm");
}

template <typename In, WeightMajor kMajor, typename Out>
void launch_m_grouped(const MGroupedArgs& args, const Launch& launch) {
  using Types = MGroupedTypes<In, kMajor, Out>;
  if (launch.has<Wide>()) return launch_m_grouped_of<Wide, Types>(args, launch);
  if (launch.has<Deep>()) return launch_m_grouped_of<Deep, Types>(args, launch);
  launch_m_grouped_of<Pair, Types>(args, launch);
}

}  // namespace gg::cuda::sm80
