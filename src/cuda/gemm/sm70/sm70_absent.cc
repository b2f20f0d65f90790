// Stands in for sm70_launch.cc and its kernels where no architecture of path sm70 is built.
#include "base/check.h"
#include "cuda/gemm/sm70/launch.h"

namespace gg::cuda::sm70 {

const char* sm70_architectures() { return ""; }

namespace {

[[noreturn]] void refuse(const char* op) {
  throw Error(base::concat(
      op,
      ": got a plan of path sm70; needs a build for architecture "
      "7.0, or for PTX of 7.5; add 70-real (a CUDA 12 toolkit) or 75-virtual to GG_CUDA_ARCHS"));
}

}  // namespace

void launch_sm70(const GmmPlan&, WeightMajor, const MGroupedArgs&, cudaStream_t) { refuse("gmm"); }
void launch_sm70(const GmmPlan&, const KGroupedArgs&, cudaStream_t) { refuse("gmm_wgrad"); }

}  // namespace gg::cuda::sm70
