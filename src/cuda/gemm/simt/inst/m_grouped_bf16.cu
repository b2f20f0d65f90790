// M-grouped, bf16 operands.
#include "cuda/gemm/simt/launch.cuh"

namespace gg::cuda::simt {

template void launch_m_grouped<__nv_bfloat16>(const Variant&, const MGroupedArgs&, unsigned,
                                              cudaStream_t);

}  // namespace gg::cuda::simt
