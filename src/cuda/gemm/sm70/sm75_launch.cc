// Path sm75 where the build has an architecture for it; sm75_absent.cc otherwise.
#include "cuda/gemm/sm70/launch.h"
#include "grouped_gemm_build.h"

namespace gg::cuda::sm70 {

const char* sm75_architectures() { return GG_BUILT_CUDA_ARCHS; }

void launch_sm75(const GmmPlan& plan, WeightMajor major, const MGroupedArgs& args,
                 cudaStream_t stream) {
  with_policy(plan.policy,
              [&]<typename Policy>(Policy) { launch<Mma, Policy>(plan, major, args, stream); });
}

void launch_sm75(const GmmPlan& plan, const KGroupedArgs& args, cudaStream_t stream) {
  with_policy(plan.policy,
              [&]<typename Policy>(Policy) { launch<Mma, Policy>(plan, args, stream); });
}

}  // namespace gg::cuda::sm70
