// Grouped GEMM on Volta and Turing: views to kernel arguments, and the launch. Kernels:
// m_grouped.cuh, k_grouped.cuh. Choice: policy.cc.
#include "cuda/common/launch.h"
#include "cuda/gemm/layouts.h"
#include "cuda/gemm/sm70/door.h"
#include "cuda/gemm/sm70/launch.h"

namespace gg::cuda::sm70 {
namespace {

const __half* halves(const TensorView& tensor) { return static_cast<const __half*>(tensor.data); }

// `out`'s rows lie along dimension `row_dim`, further matrices along 0.
Output output_of(const TensorView& out, int row_dim, bool accumulate) {
  const int64_t pitch = out.stride(row_dim);
  const int64_t group_stride = out.rank == 3 ? out.stride(0) : 0;
  const int64_t facts = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out.data)) |
                        (pitch | group_stride) * size_of(out.dtype);
  return {.data = out.data,
          .pitch = pitch,
          .is_float32 = out.dtype == DType::kFloat32,
          .in_vectors = facts % (8 * size_of(out.dtype)) == 0,
          .accumulate = accumulate};
}

}  // namespace

void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  const WeightMajor major = major_of(problem);
  const TensorView& weights = problem.weights;
  const MGroupedArgs args{.tokens = halves(problem.tokens),
                          .weights = halves(weights),
                          .out = output_of(problem.out, 0, false),
                          .groups = to_device("gmm", problem.groups, workspace, to_cuda(stream)),
                          .num_rows = static_cast<int>(problem.tokens.size(0)),
                          .num_n = static_cast<int>(weights.size(1)),
                          .num_k = static_cast<int>(weights.size(2)),
                          .token_pitch = problem.tokens.stride(0),
                          .weight_pitch = weights.stride(major == WeightMajor::kK ? 1 : 2),
                          .weight_group_stride = weights.stride(0)};
  if (plan.path == Path::kSm75) {
    launch_sm75(plan, major, args, to_cuda(stream));
  } else {
    launch_sm70(plan, major, args, to_cuda(stream));
  }
}

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream) {
  const WgradRoles roles = roles_of(problem);
  const KGroupedArgs args{
      .left = halves(roles.left),
      .right = halves(roles.right),
      .out = output_of(problem.out, roles.row_dim, problem.accumulate),
      .groups = to_device("gmm_wgrad", problem.groups, workspace, to_cuda(stream)),
      .num_rows = static_cast<int>(problem.dy.size(0)),
      .out_rows = static_cast<int>(problem.out.size(roles.row_dim)),
      .out_columns = static_cast<int>(problem.out.size(roles.column_dim)),
      .left_pitch = roles.left.stride(0),
      .right_pitch = roles.right.stride(0),
      .out_group_stride = problem.out.stride(0)};
  if (plan.path == Path::kSm75) {
    launch_sm75(plan, args, to_cuda(stream));
  } else {
    launch_sm70(plan, args, to_cuda(stream));
  }
}

}  // namespace gg::cuda::sm70
