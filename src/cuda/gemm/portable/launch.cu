// Portable grouped GEMM: plan and launch. Kernels: m_grouped.cuh, k_grouped.cuh.
#include <limits>

#include "base/math.h"
#include "cuda/common/dispatch.h"
#include "cuda/common/launch.h"
#include "cuda/gemm/portable/door.h"
#include "cuda/gemm/portable/k_grouped.cuh"
#include "cuda/gemm/portable/m_grouped.cuh"

namespace gg::cuda::portable {
namespace {

// function(Tag<In>{}, Tag<Out>{}); Out is In or float.
template <typename Function>
void with_types(const char* op, DType in, DType out, const Function& function) {
  with_number_type(op, in, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) >= 2) {  // float8 operands are refused by the core
      if (out == in) {
        function(tag, tag);
      } else {
        function(tag, Tag<float>{});
      }
    }
  });
}

void complete_plan(const char* op, GmmPlan& plan, int64_t num_blocks, const GroupSizes& groups) {
  GG_REQUIRE(num_blocks <= std::numeric_limits<int32_t>::max(), op, ": got a product of ",
             num_blocks, " tiles of 64 x 64; needs at most ", std::numeric_limits<int32_t>::max(),
             " on the portable path; split it");
  plan.policy = {kTile, kTile, kSlice};
  plan.num_blocks = num_blocks;
  plan.workspace_bytes = groups_workspace_bytes(groups);
}

}  // namespace

void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits&) {
  // Each group may end in a partial tile, and so may the rows past the last one.
  const int64_t num_rows = problem.out.size(0);
  const int64_t max_row_tiles =
      num_rows / kTile + base::min(problem.groups.num_groups, num_rows) + 1;
  complete_plan("gmm", plan, max_row_tiles * base::ceil_div(problem.out.size(1), kTile),
                problem.groups);
}

void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits&) {
  const TensorView& out = problem.out;
  complete_plan(
      "gmm_wgrad", plan,
      out.size(0) * base::ceil_div(out.size(1), kTile) * base::ceil_div(out.size(2), kTile),
      problem.groups);
}

void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  const TensorView& tokens = problem.tokens;
  const TensorView& weights = problem.weights;
  const MGroupedArgs args{
      .tokens = tokens.data,
      .weights = weights.data,
      .out = problem.out.data,
      .groups = to_device("gmm", problem.groups, workspace, to_cuda(stream)),
      .num_rows = tokens.size(0),
      .num_n = weights.size(1),
      .num_k = tokens.size(1),
      .token_strides = {tokens.stride(0), tokens.stride(1)},
      .weight_strides = {weights.stride(0), weights.stride(1), weights.stride(2)},
      .out_strides = {problem.out.stride(0), problem.out.stride(1)}};
  with_types("gmm", tokens.dtype, problem.out.dtype, [&](auto in, auto out) {
    m_grouped_gemm<typename decltype(in)::type, typename decltype(out)::type>
        <<<static_cast<unsigned>(plan.num_blocks), kThreads, 0, to_cuda(stream)>>>(args);
  });
  check_launch("gmm");
}

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream) {
  const TensorView& dy = problem.dy;
  const TensorView& tokens = problem.tokens;
  const TensorView& out_view = problem.out;
  const KGroupedArgs args{
      .dy = dy.data,
      .tokens = tokens.data,
      .out = out_view.data,
      .groups = to_device("gmm_wgrad", problem.groups, workspace, to_cuda(stream)),
      .num_rows = dy.size(0),
      .num_n = dy.size(1),
      .num_k = tokens.size(1),
      .dy_strides = {dy.stride(0), dy.stride(1)},
      .token_strides = {tokens.stride(0), tokens.stride(1)},
      .out_strides = {out_view.stride(0), out_view.stride(1), out_view.stride(2)},
      .accumulate = problem.accumulate};
  with_types("gmm_wgrad", dy.dtype, out_view.dtype, [&](auto in, auto out) {
    k_grouped_gemm<typename decltype(in)::type, typename decltype(out)::type>
        <<<static_cast<unsigned>(plan.num_blocks), kThreads, 0, to_cuda(stream)>>>(args);
  });
  check_launch("gmm_wgrad");
}

}  // namespace gg::cuda::portable
