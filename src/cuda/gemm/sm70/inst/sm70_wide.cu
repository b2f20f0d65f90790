#include "cuda/gemm/sm70/launch.cuh"
#include "cuda/gemm/sm70/wmma.cuh"

namespace gg::cuda::sm70 {
template void launch<Wmma, Wide>(const GmmPlan&, WeightMajor, const MGroupedArgs&, cudaStream_t);
template void launch<Wmma, Wide>(const GmmPlan&, const KGroupedArgs&, cudaStream_t);
}  // namespace gg::cuda::sm70
