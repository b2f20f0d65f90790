// sinkhorn: validate, choose a path, plan, run.
#include "grouped_gemm/sinkhorn.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

constexpr const char* kOp = "sinkhorn";

void validate(const SinkhornProblem& problem, const Target& target) {
  core::require_rank({kOp, "cost"}, problem.cost, 2, "[tokens, experts]");
  if (target.kind == Target::Kind::kCpu) {
    core::require_dtype({kOp, "cost"}, problem.cost,
                        {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64});
  } else {
    core::require_dtype({kOp, "cost"}, problem.cost,
                        {DType::kFloat32, DType::kBFloat16, DType::kFloat16},
                        "cast it (float64 runs on the CPU only)");
  }
  core::require_contiguous({kOp, "cost"}, problem.cost);
  core::require_shape({kOp, "output"}, problem.output, {problem.cost.size(0), problem.cost.size(1)},
                      "cost's shape");
  core::require_dtype({kOp, "output"}, problem.output, {problem.cost.dtype});
  core::require_contiguous({kOp, "output"}, problem.output);
  if (problem.iterations.defined()) {
    core::require_shape({kOp, "iterations"}, problem.iterations, {1}, "one counter");
    core::require_dtype({kOp, "iterations"}, problem.iterations, {DType::kInt32});
  }
  if (problem.error.defined()) {
    core::require_shape({kOp, "error"}, problem.error, {1}, "one value");
    core::require_dtype({kOp, "error"}, problem.error, {DType::kFloat32});
  }
  GG_REQUIRE(problem.max_iterations >= 1, kOp, ": max_iterations got ", problem.max_iterations,
             "; needs 1 or more");
  GG_REQUIRE(problem.tolerance == problem.tolerance, kOp, ": tol got NaN; needs a number");
}

}  // namespace

SinkhornPlan plan_sinkhorn(const SinkhornProblem& problem, const Target& target) {
  validate(problem, target);
  SinkhornPlan plan;
  plan.path = core::choose_path(kOp, target, core::kPlainMenu);
  if (target.kind == Target::Kind::kCpu) {
    plan.workspace_bytes = cpu::sinkhorn_workspace_bytes(problem);
  } else {
    cuda::plan_sinkhorn(plan, problem, target.limits);
  }
  return plan;
}

void run(const SinkhornPlan& plan, const SinkhornProblem& problem, Workspace workspace,
         Stream stream) {
  core::require_workspace(kOp, workspace, plan.workspace_bytes);
  // An infinite one would be met before the first iteration: nothing would be computed.
  SinkhornProblem finite = problem;
  finite.tolerance = std::min<double>(problem.tolerance, std::numeric_limits<float>::max());
  if (plan.path == Path::kPortable) {
    cuda::sinkhorn(plan, finite, workspace, stream);
  } else {
    cpu::sinkhorn(plan, finite, workspace, stream);
  }
}

std::string to_string(const SinkhornPlan& plan) {
  return base::concat("sinkhorn ", to_string(plan.path), " blocks=", plan.num_blocks,
                      " chunks=", plan.num_chunks, " values_per_lane=", plan.values_per_lane,
                      plan.keeps_rows ? " keeps_rows" : "", " workspace=", plan.workspace_bytes,
                      "B");
}

}  // namespace gg
