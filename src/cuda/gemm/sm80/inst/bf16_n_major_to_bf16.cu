// bf16 tokens, N-major weights, bf16 output.
#include "cuda/gemm/sm80/launch.cuh"

namespace gg::cuda::sm80 {

template void launch_m_grouped<__nv_bfloat16, WeightMajor::kN, __nv_bfloat16>(const MGroupedArgs&,
                                                                              const Launch&);

}  // namespace gg::cuda::sm80
