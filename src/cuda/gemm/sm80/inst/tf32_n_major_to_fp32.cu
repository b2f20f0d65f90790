// tf32 tokens, N-major weights, fp32 output.
#include "cuda/gemm/sm80/launch.cuh"

namespace gg::cuda::sm80 {

template void launch_m_grouped<float, WeightMajor::kN, float>(const MGroupedArgs&, const Launch&);

}  // namespace gg::cuda::sm80
