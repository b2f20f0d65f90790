// unpermute and its backward: validate, choose a path, plan, run.
#include "grouped_gemm/unpermute.h"

#include "base/check.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

using core::Argument;

void require_float(Argument argument, const TensorView& tensor) {
  core::require_dtype(argument, tensor,
                      {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat8E4M3,
                       DType::kFloat8E5M2, DType::kFloat64});
}

void require_map(const char* op, const TensorView& map, int64_t num_tokens) {
  core::require_rank({op, "row_id_map"}, map, 2, "[topK, tokens]");
  core::require_shape({op, "row_id_map"}, map, {map.size(0), num_tokens},
                      "topK rows of one entry for each token");
  core::require_dtype({op, "row_id_map"}, map, {DType::kInt32, DType::kInt64});
  core::require_contiguous({op, "row_id_map"}, map);
  core::require_int32_count({op, "row_id_map"}, map.num_elements(), "entries");
}

void require_probs(Argument argument, const TensorView& probs, const TensorView& map) {
  core::require_shape(argument, probs, {map.size(1), map.size(0)}, "[tokens, topK]");
  core::require_dtype(argument, probs,
                      {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64});
  core::require_contiguous(argument, probs);
}

void validate(const UnpermuteProblem& problem) {
  constexpr const char* kOp = "unpermute";
  core::require_rank({kOp, "input"}, problem.input, 2, "[rows, hidden]");
  core::require_rank({kOp, "output"}, problem.output, 2, "[tokens, hidden]");
  require_float({kOp, "input"}, problem.input);
  core::require_contiguous_rows({kOp, "input"}, problem.input);
  core::require_shape({kOp, "output"}, problem.output,
                      {problem.output.size(0), problem.input.size(1)}, "input's hidden size");
  core::require_dtype({kOp, "output"}, problem.output, {problem.input.dtype});
  core::require_contiguous({kOp, "output"}, problem.output);
  core::require_int32_count({kOp, "input"}, problem.input.size(0), "rows");
  if (problem.residual.defined()) {
    core::require_shape({kOp, "residual"}, problem.residual,
                        {problem.output.size(0), problem.output.size(1)},
                        "[tokens, hidden], as output");
    core::require_dtype({kOp, "residual"}, problem.residual, {problem.input.dtype});
    core::require_contiguous_rows({kOp, "residual"}, problem.residual);
  }
  require_map(kOp, problem.row_id_map, problem.output.size(0));
  if (problem.probs.defined()) require_probs({kOp, "probs"}, problem.probs, problem.row_id_map);
}

void validate(const UnpermuteBwdProblem& problem) {
  constexpr const char* kOp = "unpermute_bwd";
  const TensorView& grad = problem.output_grad;
  core::require_rank({kOp, "output_grad"}, grad, 2, "[tokens, hidden]");
  require_float({kOp, "output_grad"}, grad);
  core::require_contiguous_rows({kOp, "output_grad"}, grad);
  require_map(kOp, problem.row_id_map, grad.size(0));
  if (problem.probs.defined()) require_probs({kOp, "probs"}, problem.probs, problem.row_id_map);
  if (problem.input_grad.defined()) {
    core::require_shape({kOp, "input_grad"}, problem.input_grad,
                        {problem.input_grad.size(0), grad.size(1)}, "[rows, hidden]");
    core::require_dtype({kOp, "input_grad"}, problem.input_grad, {grad.dtype});
    core::require_contiguous({kOp, "input_grad"}, problem.input_grad);
    core::require_int32_count({kOp, "input_grad"}, problem.input_grad.size(0), "rows");
  }
  if (problem.probs_grad.defined()) {
    const int64_t num_rows =
        problem.input_grad.defined() ? problem.input_grad.size(0) : problem.input.size(0);
    core::require_shape({kOp, "input"}, problem.input, {num_rows, grad.size(1)},
                        "the forward's rows");
    core::require_int32_count({kOp, "input"}, num_rows, "rows");
    core::require_dtype({kOp, "input"}, problem.input, {grad.dtype});
    core::require_contiguous_rows({kOp, "input"}, problem.input);
    require_probs({kOp, "probs_grad"}, problem.probs_grad, problem.row_id_map);
    core::require_dtype({kOp, "probs_grad"}, problem.probs_grad,
                        {grad.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32});
  }
}

template <typename Problem>
UnpermutePlan plan_with(const char* op, const Problem& problem, const Target& target) {
  validate(problem);
  UnpermutePlan plan;
  plan.path = core::choose_path(op, target, core::kPlainMenu);
  return plan;
}

}  // namespace

UnpermutePlan plan_unpermute(const UnpermuteProblem& problem, const Target& target) {
  UnpermutePlan plan = plan_with("unpermute", problem, target);
  if (target.kind == Target::Kind::kCuda) cuda::plan_unpermute(plan, problem);
  return plan;
}

UnpermutePlan plan_unpermute_bwd(const UnpermuteBwdProblem& problem, const Target& target) {
  UnpermutePlan plan = plan_with("unpermute_bwd", problem, target);
  if (target.kind == Target::Kind::kCuda) {
    cuda::plan_unpermute_bwd(plan, problem);
  } else {
    plan.workspace_bytes = cpu::unpermute_bwd_workspace_bytes(problem);
  }
  return plan;
}

void run(const UnpermutePlan& plan, const UnpermuteProblem& problem, Workspace workspace,
         Stream stream) {
  core::require_workspace("unpermute", workspace, plan.workspace_bytes);
  if (plan.path == Path::kPortable) {
    cuda::unpermute(plan, problem, stream);
  } else {
    cpu::unpermute(plan, problem, stream);
  }
}

void run(const UnpermutePlan& plan, const UnpermuteBwdProblem& problem, Workspace workspace,
         Stream stream) {
  core::require_workspace("unpermute_bwd", workspace, plan.workspace_bytes);
  if (plan.path == Path::kPortable) {
    cuda::unpermute_bwd(plan, problem, workspace, stream);
  } else {
    cpu::unpermute_bwd(plan, problem, workspace, stream);
  }
}

std::string to_string(const UnpermutePlan& plan) {
  return base::concat("unpermute ", to_string(plan.path), " vector=", plan.vector_bytes,
                      "B workspace=", plan.workspace_bytes, "B");
}

}  // namespace gg
