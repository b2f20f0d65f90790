// The K-grouped kernel's launcher, a function for each variant: declared here,
// defined in k_grouped_launch.cuh, instantiated in inst/, chosen in k_grouped_launch.cu.
#pragma once

#include <cuda_runtime.h>

#include "cuda/gemm/sm90/args.h"

namespace gg::cuda::sm90 {

// How the output leaves.
enum class WgradStore { kRounded, kFloat, kAddRounded, kAddFloat, kAddFloatInL2 };

template <typename In, WgradStore kStore>
void launch_k_grouped(const KGroupedArgs& args, unsigned num_blocks, cudaStream_t stream);

}  // namespace gg::cuda::sm90
