// Stands in for launch.cu and k_grouped_launch.cu where architecture 90a is not built.
#include "base/check.h"
#include "cuda/gemm/sm90/door.h"

namespace gg::cuda::sm90 {

bool is_built() { return false; }

namespace {

[[noreturn]] void refuse(const char* op) {
  throw Error(base::concat(op,
                           ": got a plan of path sm90; needs a build for architecture 90a; add "
                           "90a-real to GG_CUDA_ARCHS"));
}

}  // namespace

void gmm(const GmmPlan&, const GmmProblem&, Workspace, Stream) { refuse("gmm"); }
void gmm_wgrad(const GmmPlan&, const GmmWgradProblem&, Workspace, Stream) { refuse("gmm_wgrad"); }

}  // namespace gg::cuda::sm90
