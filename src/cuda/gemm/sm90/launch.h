// The kernel's launcher, a function for each variant: declared here, defined in
// launch.cuh, instantiated in inst/, chosen in launch.cu.
#pragma once

#include <cuda_runtime.h>

#include "cuda/gemm/sm90/args.h"
#include "cuda/gemm/sm90/policy.h"

namespace gg::cuda::sm90 {

template <typename In, WeightMajor kMajor, typename Out, StoreBy kStore,
          TileShape kTile = TileShape::kGeneral>
void launch_m_grouped(const MGroupedArgs& args, unsigned num_blocks, cudaStream_t stream);

}  // namespace gg::cuda::sm90
