// K-grouped, tf32 operands, fp32 output.
#include "cuda/gemm/sm80/k_grouped_launch.cuh"

namespace gg::cuda::sm80 {

template void launch_k_grouped<float, float>(const KGroupedArgs&, const Launch&);

}  // namespace gg::cuda::sm80
