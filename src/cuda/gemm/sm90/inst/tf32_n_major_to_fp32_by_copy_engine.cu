// fp32 tokens as tf32, N-major weights, fp32 output by the copy engine.
#include "cuda/gemm/sm90/launch.cuh"

namespace gg::cuda::sm90 {

template void launch_m_grouped<float, WeightMajor::kN, float, StoreBy::kCopyEngine>(
    const MGroupedArgs&, unsigned, cudaStream_t);

}  // namespace gg::cuda::sm90
