// fp16 tokens, N-major weights, fp32 output by the copy engine; narrow tiles, deep pipeline.
#include "cuda/gemm/sm90/launch.cuh"

namespace gg::cuda::sm90 {

template void launch_m_grouped<__half, WeightMajor::kN, float, StoreBy::kCopyEngine,
                               TileShape::kDeep>(const MGroupedArgs&, unsigned, cudaStream_t);

}  // namespace gg::cuda::sm90
