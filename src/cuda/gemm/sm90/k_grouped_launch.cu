// K-grouped GEMM on Hopper: descriptors, the counters of claims, the launch.
// Kernel: k_grouped.cuh. Choice: k_grouped_policy.cc.
#include "cuda/gemm/sm90/k_grouped_launch.h"

#include "cuda/common/launch.h"
#include "cuda/common/number.cuh"
#include "cuda/gemm/sm90/door.h"
#include "cuda/gemm/sm90/policy.h"
#include "cuda/gemm/sm90/scratch.h"
#include "cuda/gemm/sm90/tensor_maps.h"

namespace gg::cuda::sm90 {
namespace {

using Launch = void (*)(const KGroupedArgs&, unsigned, cudaStream_t);

// Every kernel there is: one for each file of inst/.
template <typename In>
Launch launcher_of(const GmmWgradProblem& problem) {
  if constexpr (sizeof(In) == 4) {  // tf32
    return problem.accumulate ? launch_k_grouped<In, WgradStore::kAddFloatInL2>
                              : launch_k_grouped<In, WgradStore::kFloat>;
  } else if (problem.out.dtype == DType::kFloat32) {
    if (!problem.accumulate) return launch_k_grouped<In, WgradStore::kFloat>;
    return adds_in_l2(problem) ? launch_k_grouped<In, WgradStore::kAddFloatInL2>
                               : launch_k_grouped<In, WgradStore::kAddFloat>;
  } else {
    return problem.accumulate ? launch_k_grouped<In, WgradStore::kAddRounded>
                              : launch_k_grouped<In, WgradStore::kRounded>;
  }
}

}  // namespace

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream) {
  const WgradRoles roles = copied_roles_of(problem);
  KGroupedArgs args{};
  const Scratch scratch = prepare("gmm_wgrad", plan, problem.groups, workspace, stream);
  args.groups = scratch.groups;
  args.classes = {.claims = scratch.claims,
                  .small_rows = plan.policy.small_rows > 0 ? plan.policy.small_rows : -1,
                  .halves = false};
  args.num_rows = static_cast<int>(problem.dy.size(0));
  args.out_rows = static_cast<int>(roles.left.size(1));
  args.out_columns = static_cast<int>(roles.right.size(1));
  encode_tensor_maps(args, roles, problem.out);
  const Launch launch = [&] {
    switch (problem.dy.dtype) {
      case DType::kFloat32: return launcher_of<float>(problem);
      case DType::kFloat16: return launcher_of<__half>(problem);
      default: return launcher_of<__nv_bfloat16>(problem);
    }
  }();
  launch(args, static_cast<unsigned>(plan.num_blocks), to_cuda(stream));
}

}  // namespace gg::cuda::sm90
