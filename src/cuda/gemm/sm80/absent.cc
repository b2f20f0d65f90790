// Stands in for launch.cu and k_grouped_launch.cu where no architecture of 8.0 or more is built.
#include "base/check.h"
#include "cuda/gemm/sm80/door.h"

namespace gg::cuda::sm80 {

bool is_built() { return false; }

namespace {

[[noreturn]] void refuse(const char* op) {
  throw Error(base::concat(op,
                           ": got a plan of path sm80; needs a build for architecture 8.0 or "
                           "newer; add 80-virtual to GG_CUDA_ARCHS"));
}

}  // namespace

void gmm(const GmmPlan&, const GmmProblem&, Workspace, Stream) { refuse("gmm"); }
void gmm_wgrad(const GmmPlan&, const GmmWgradProblem&, Workspace, Stream) { refuse("gmm_wgrad"); }

}  // namespace gg::cuda::sm80
