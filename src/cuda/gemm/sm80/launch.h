// The kernels' launchers, a function for each variant: declared here, defined in launch.cuh and
// k_grouped_launch.cuh, instantiated in inst/, chosen in launch.cu and k_grouped_launch.cu.
#pragma once

#include <cuda_runtime.h>

#include "cuda/gemm/sm80/args.h"
#include "cuda/gemm/sm80/policy.h"

namespace gg::cuda::sm80 {

// How a plan is launched.
struct Launch {
  GmmPolicy policy;
  unsigned num_blocks;
  cudaStream_t stream;

  template <class TilePolicy>
  bool has() const {
    return policy.tile_n == TilePolicy::kTileColumns && policy.stages == TilePolicy::kStages;
  }
};

template <typename In, WeightMajor kMajor, typename Out>
void launch_m_grouped(const MGroupedArgs& args, const Launch& launch);

template <typename In, typename Out>
void launch_k_grouped(const KGroupedArgs& args, const Launch& launch);

}  // namespace gg::cuda::sm80
