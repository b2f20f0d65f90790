// K-grouped, bf16 operands, bf16 output.
#include "cuda/gemm/sm80/k_grouped_launch.cuh"

namespace gg::cuda::sm80 {

template void launch_k_grouped<__nv_bfloat16, __nv_bfloat16>(const KGroupedArgs&, const Launch&);

}  // namespace gg::cuda::sm80
