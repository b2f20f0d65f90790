// The gradient of the probs that permute carries along: validate, choose a path,
// run. (The gradient of its rows is an unpermute.)
#include "base/check.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"
#include "grouped_gemm/permute.h"

namespace gg {
namespace {

constexpr const char* kOp = "permute_probs_bwd";

void validate(const PermuteProbsBwdProblem& problem) {
  using namespace core;
  const TensorView& grad = problem.permuted_probs_grad;
  const TensorView& map = problem.row_id_map;
  require_rank({kOp, "permuted_probs_grad"}, grad, 1, "[rows]");
  require_dtype({kOp, "permuted_probs_grad"}, grad,
                {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64});
  require_contiguous({kOp, "permuted_probs_grad"}, grad);
  require_int32_count({kOp, "permuted_probs_grad"}, grad.size(0), "rows");
  require_rank({kOp, "row_id_map"}, map, 2, "[topK, tokens]");
  require_dtype({kOp, "row_id_map"}, map, {DType::kInt32, DType::kInt64});
  require_contiguous({kOp, "row_id_map"}, map);
  require_int32_count({kOp, "row_id_map"}, map.num_elements(), "entries");
  require_shape({kOp, "probs_grad"}, problem.probs_grad, {map.size(1), map.size(0)},
                "[tokens, topK]");
  require_dtype({kOp, "probs_grad"}, problem.probs_grad, {grad.dtype});
  require_contiguous({kOp, "probs_grad"}, problem.probs_grad);
}

}  // namespace

PermuteProbsBwdPlan plan_permute_probs_bwd(const PermuteProbsBwdProblem& problem,
                                           const Target& target) {
  validate(problem);
  return {.path = core::choose_path(kOp, target, core::kPlainMenu)};
}

void run(const PermuteProbsBwdPlan& plan, const PermuteProbsBwdProblem& problem,
         Workspace workspace, Stream stream) {
  core::require_workspace(kOp, workspace, plan.workspace_bytes);
  if (plan.path == Path::kPortable) {
    cuda::permute_probs_bwd(problem, stream);
  } else {
    cpu::permute_probs_bwd(problem);
  }
}

std::string to_string(const PermuteProbsBwdPlan& plan) {
  return base::concat("permute_probs_bwd ", to_string(plan.path));
}

}  // namespace gg
