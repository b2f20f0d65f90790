// The launches of one way to multiply and one tile; instantiated by the files of inst/.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/gemm/sm70/k_grouped.cuh"
#include "cuda/gemm/sm70/launch.h"
#include "cuda/gemm/sm70/m_grouped.cuh"

namespace gg::cuda::sm70 {

template <typename Policy, typename Args>
void launch_kernel(const char* op, void (*kernel)(Args), const GmmPlan& plan, const Args& args,
                   cudaStream_t stream) {
  allow_shared_bytes(op, kernel, Policy::kSharedBytes);
  kernel<<<static_cast<unsigned>(plan.num_blocks), Policy::kThreads, Policy::kSharedBytes,
           stream>>>(args);
  check_launch(op);
}

template <typename Math, typename Policy>
void launch(const GmmPlan& plan, WeightMajor major, const MGroupedArgs& args, cudaStream_t stream) {
  const auto kernel = major == WeightMajor::kK ? m_grouped<Math, Policy, Major::kReduction>
                                               : m_grouped<Math, Policy, Major::kOuter>;
  launch_kernel<Policy, MGroupedArgs>("gmm", kernel, plan, args, stream);
}

template <typename Math, typename Policy>
void launch(const GmmPlan& plan, const KGroupedArgs& args, cudaStream_t stream) {
  launch_kernel<Policy, KGroupedArgs>("gmm_wgrad", k_grouped<Math, Policy>, plan, args, stream);
}

}  // namespace gg::cuda::sm70
