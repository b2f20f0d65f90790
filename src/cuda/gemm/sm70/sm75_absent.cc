// Stands in for sm75_launch.cc and its kernels where no architecture of path sm75 is built.
#include "base/check.h"
#include "cuda/gemm/sm70/launch.h"

namespace gg::cuda::sm70 {

const char* sm75_architectures() { return ""; }

namespace {

[[noreturn]] void refuse(const char* op) {
  throw Error(base::concat(op,
                           ": got a plan of path sm75; needs a build for architecture "
                           "7.5; add 75-real to GG_CUDA_ARCHS"));
}

}  // namespace

void launch_sm75(const GmmPlan&, WeightMajor, const MGroupedArgs&, cudaStream_t) { refuse("gmm"); }
void launch_sm75(const GmmPlan&, const KGroupedArgs&, cudaStream_t) { refuse("gmm_wgrad"); }

}  // namespace gg::cuda::sm70
