// Stands in for launch.cu where architecture 90a is not built.
#include "base/check.h"
#include "cuda/gemm/sm90/door.h"

namespace gg::cuda::sm90 {

bool is_built() { return false; }

void gmm(const GmmPlan&, const GmmProblem&, Workspace, Stream) {
  throw Error(
      "gmm: got a plan of path sm90; needs a build for architecture 90a; add 90a-real to "
      "GG_CUDA_ARCHS");
}

}  // namespace gg::cuda::sm90
