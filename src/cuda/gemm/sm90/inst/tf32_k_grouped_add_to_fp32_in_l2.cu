// K-grouped, fp32 operands as tf32, added to an fp32 output in L2.
#include "cuda/gemm/sm90/k_grouped_launch.cuh"

namespace gg::cuda::sm90 {

template void launch_k_grouped<float, WgradStore::kAddFloatInL2>(const KGroupedArgs&, unsigned,
                                                                 cudaStream_t);

}  // namespace gg::cuda::sm90
