// Path sm70 where the build has an architecture for it; sm70_absent.cc otherwise.
#include "cuda/gemm/sm70/launch.h"
#include "grouped_gemm_build.h"

namespace gg::cuda::sm70 {

const char* sm70_architectures() { return GG_BUILT_CUDA_ARCHS; }

void launch_sm70(const GmmPlan& plan, WeightMajor major, const MGroupedArgs& args,
                 cudaStream_t stream) {
  with_policy(plan.policy,
              [&]<typename Policy>(Policy) { launch<Wmma, Policy>(plan, major, args, stream); });
}

void launch_sm70(const GmmPlan& plan, const KGroupedArgs& args, cudaStream_t stream) {
  with_policy(plan.policy,
              [&]<typename Policy>(Policy) { launch<Wmma, Policy>(plan, args, stream); });
}

}  // namespace gg::cuda::sm70
