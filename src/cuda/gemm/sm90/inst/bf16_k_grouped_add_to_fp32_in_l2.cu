// K-grouped, bf16 operands, added to an fp32 output in L2.
#include "cuda/gemm/sm90/k_grouped_launch.cuh"

namespace gg::cuda::sm90 {

template void launch_k_grouped<__nv_bfloat16, WgradStore::kAddFloatInL2>(const KGroupedArgs&,
                                                                         unsigned, cudaStream_t);

}  // namespace gg::cuda::sm90
