// Grouped GEMM by multiply-adds: arguments and launch. Kernels: m_grouped.cuh,
// k_grouped.cuh. Choice: policy.cc.
#include "cuda/gemm/simt/launch.h"

#include "cuda/common/dispatch.h"
#include "cuda/common/launch.h"
#include "cuda/gemm/layouts.h"
#include "cuda/gemm/simt/door.h"

namespace gg::cuda::simt {
namespace {

OutArgs out_args(const TensorView& out, int row_dim, int column_dim, bool accumulate) {
  OutArgs args{.data = out.data,
               .pitch = step_of(out, row_dim),
               .matrix_stride = out.rank == 3 ? step_of(out, 0) : 0,
               .is_float = out.dtype == DType::kFloat32,
               .has_vectors = false,
               .accumulate = accumulate};
  args.has_vectors = is_aligned(out, 4 * size_of(out.dtype)) &&
                     (args.pitch | args.matrix_stride | out.size(column_dim)) % 4 == 0;
  return args;
}

// function(Tag<In>{}) for the operands' type.
template <typename Function>
void with_operand_type(const char* op, DType dtype, const Function& function) {
  with_number_type(op, dtype, [&](auto tag) {
    if constexpr (sizeof(typename decltype(tag)::type) >= 2) function(tag);  // no float8 gets here
  });
}

}  // namespace

void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  const TensorView& weights = problem.weights;
  const Variant variant = variant_of(problem, plan);
  const MGroupedArgs args{
      .tokens = problem.tokens.data,
      .weights = weights.data,
      .out = out_args(problem.out, 0, 1, false),
      .groups = to_device("gmm", problem.groups, workspace, to_cuda(stream)),
      .num_rows = problem.tokens.size(0),
      .num_n = weights.size(1),
      .num_k = weights.size(2),
      .token_pitch = step_of(problem.tokens, 0),
      .weight_pitch = step_of(weights, variant.weights == Inner::kReduction ? 1 : 2),
      .weight_stride = step_of(weights, 0)};
  with_operand_type("gmm", variant.in, [&](auto tag) {
    launch_m_grouped<typename decltype(tag)::type>(
        variant, args, static_cast<unsigned>(plan.num_blocks), to_cuda(stream));
  });
}

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream) {
  const Variant variant = variant_of(problem, plan);
  const WgradRoles roles = roles_of(problem);
  const KGroupedArgs args{
      .left = roles.left.data,
      .right = roles.right.data,
      .out = out_args(problem.out, roles.row_dim, roles.column_dim, problem.accumulate),
      .groups = to_device("gmm_wgrad", problem.groups, workspace, to_cuda(stream)),
      .num_rows = roles.left.size(0),
      .out_rows = roles.left.size(1),
      .out_columns = roles.right.size(1),
      .left_pitch = step_of(roles.left, 0),
      .right_pitch = step_of(roles.right, 0)};
  with_operand_type("gmm_wgrad", variant.in, [&](auto tag) {
    launch_k_grouped<typename decltype(tag)::type>(
        variant, args, static_cast<unsigned>(plan.num_blocks), to_cuda(stream));
  });
}

}  // namespace gg::cuda::simt
