// The kernels' launches as run.cc calls them: a function for each path and operator.
// sm75_launch.cc and sm70_launch.cc have them where the build has architectures for the
// path, sm75_absent.cc and sm70_absent.cc say elsewhere that it has none.
#pragma once

#include <cuda_runtime.h>

#include "cuda/gemm/sm70/args.h"
#include "cuda/gemm/sm70/policy.h"

namespace gg::cuda::sm70 {

// What the path's kernels are compiled for: "75" or "75+PTX"; "" where it is absent.
const char* sm70_architectures();
const char* sm75_architectures();

// The plan's policy and number of blocks; weights of one major or the other.
void launch_sm70(const GmmPlan& plan, WeightMajor major, const MGroupedArgs& args,
                 cudaStream_t stream);
void launch_sm75(const GmmPlan& plan, WeightMajor major, const MGroupedArgs& args,
                 cudaStream_t stream);
void launch_sm70(const GmmPlan& plan, const KGroupedArgs& args, cudaStream_t stream);
void launch_sm75(const GmmPlan& plan, const KGroupedArgs& args, cudaStream_t stream);

// launch.cuh: the kernels of one way to multiply and one tile, a file of inst/ each.
struct Mma;   // mma.cuh, from compute capability 7.5 on
struct Wmma;  // wmma.cuh, from 7.0 on

template <typename Math, typename Policy>
void launch(const GmmPlan& plan, WeightMajor major, const MGroupedArgs& args, cudaStream_t stream);
template <typename Math, typename Policy>
void launch(const GmmPlan& plan, const KGroupedArgs& args, cudaStream_t stream);

}  // namespace gg::cuda::sm70
