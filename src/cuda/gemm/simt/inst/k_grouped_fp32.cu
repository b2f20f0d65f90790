// K-grouped, fp32 operands.
#include "cuda/gemm/simt/launch.cuh"

namespace gg::cuda::simt {

template void launch_k_grouped<float>(const Variant&, const KGroupedArgs&, unsigned, cudaStream_t);

}  // namespace gg::cuda::simt
