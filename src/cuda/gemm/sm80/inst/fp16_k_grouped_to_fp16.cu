// K-grouped, fp16 operands, fp16 output.
#include "cuda/gemm/sm80/k_grouped_launch.cuh"

namespace gg::cuda::sm80 {

template void launch_k_grouped<__half, __half>(const KGroupedArgs&, const Launch&);

}  // namespace gg::cuda::sm80
