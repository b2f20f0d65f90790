// K-grouped, fp32 operands as tf32, fp32 output.
#include "cuda/gemm/sm90/k_grouped_launch.cuh"

namespace gg::cuda::sm90 {

template void launch_k_grouped<float, WgradStore::kFloat>(const KGroupedArgs&, unsigned,
                                                          cudaStream_t);

}  // namespace gg::cuda::sm90
