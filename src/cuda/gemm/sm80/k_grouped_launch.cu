// K-grouped GEMM by mma.sync: addresses, the counter of claims, the launch.
// Kernel: k_grouped.cuh. Choice: k_grouped_policy.cc.
#include "cuda/common/launch.h"
#include "cuda/common/number.cuh"
#include "cuda/gemm/sm80/copies.h"
#include "cuda/gemm/sm80/door.h"
#include "cuda/gemm/sm80/launch.h"

namespace gg::cuda::sm80 {
namespace {

using Launcher = void (*)(const KGroupedArgs&, const Launch&);

// Every kernel there is: one for each file of inst/.
Launcher launcher_of(DType in, DType out) {
  const bool to_float = out == DType::kFloat32;
  switch (in) {
    case DType::kBFloat16:
      return to_float ? launch_k_grouped<__nv_bfloat16, float>
                      : launch_k_grouped<__nv_bfloat16, __nv_bfloat16>;
    case DType::kFloat16:
      return to_float ? launch_k_grouped<__half, float> : launch_k_grouped<__half, __half>;
    default: return launch_k_grouped<float, float>;
  }
}

Matrices matrix_of(const TensorView& rows) {
  return {static_cast<const char*>(rows.data), 0,
          static_cast<uint32_t>(step_of(rows, 0) * size_of(rows.dtype))};
}

}  // namespace

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream) {
  const TensorView& out = problem.out;
  const WgradRoles roles = roles_of(problem);
  unsigned* claims = static_cast<unsigned*>(workspace.data);
  check("gmm_wgrad", "clear its counter",
        cudaMemsetAsync(claims, 0, kClaimsBytes, to_cuda(stream)));
  const Workspace for_groups{static_cast<char*>(workspace.data) + kClaimsBytes,
                             workspace.bytes - kClaimsBytes};
  const KGroupedArgs args{
      .left = matrix_of(roles.left),
      .right = matrix_of(roles.right),
      .out = out.data,
      .out_group = step_of(out, 0),
      .out_pitch = step_of(out, roles.row_dim),
      .groups = to_device("gmm_wgrad", problem.groups, for_groups, to_cuda(stream)),
      .claims = claims,
      .num_rows = static_cast<int>(problem.dy.size(0)),
      .out_rows = static_cast<int>(roles.left.size(1)),
      .out_columns = static_cast<int>(roles.right.size(1)),
      .whole_chunks = is_aligned(out, kCopyBytes) && has_good_pitch(out, roles.row_dim) &&
                      has_aligned_steps(out, 0, kCopyBytes),
      .accumulate = problem.accumulate};
  launcher_of(problem.dy.dtype, out.dtype)(
      args, {plan.policy, static_cast<unsigned>(plan.num_blocks), to_cuda(stream)});
}

}  // namespace gg::cuda::sm80
