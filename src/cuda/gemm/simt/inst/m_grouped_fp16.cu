// M-grouped, fp16 operands.
#include "cuda/gemm/simt/launch.cuh"

namespace gg::cuda::simt {

template void launch_m_grouped<__half>(const Variant&, const MGroupedArgs&, unsigned, cudaStream_t);

}  // namespace gg::cuda::simt
