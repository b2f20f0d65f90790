// The launchers, defined in launch.cuh, instantiated in inst/, chosen in launch.cu.
#pragma once

#include <cuda_runtime.h>

#include "cuda/gemm/simt/args.h"
#include "cuda/gemm/simt/policy.h"

namespace gg::cuda::simt {

// variant.in is the DType of In.
template <typename In>
void launch_m_grouped(const Variant& variant, const MGroupedArgs& args, unsigned num_blocks,
                      cudaStream_t stream);
template <typename In>
void launch_k_grouped(const Variant& variant, const KGroupedArgs& args, unsigned num_blocks,
                      cudaStream_t stream);

}  // namespace gg::cuda::simt
