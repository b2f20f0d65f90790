// gmm (M-grouped) and gmm_wgrad (K-grouped): validate, choose a path, plan, run.
#include "grouped_gemm/gmm.h"

#include "base/check.h"
#include "core/overlap.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

constexpr const char* kGmm = "gmm";
constexpr const char* kWgrad = "gmm_wgrad";

void require_operand(core::Argument argument, const TensorView& tensor, const Target& target) {
  if (target.kind == Target::Kind::kCpu) {
    core::require_dtype(argument, tensor,
                        {DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64});
  } else {
    core::require_dtype(argument, tensor, {DType::kBFloat16, DType::kFloat16, DType::kFloat32},
                        "cast it (float64 runs on the CPU only)");
  }
}

void require_out_dtype(const char* op, const TensorView& out, DType operands) {
  if (operands == DType::kFloat64 || operands == DType::kFloat32) {
    core::require_dtype({op, "out"}, out, {operands}, "the operands' dtype");
  } else {
    core::require_dtype({op, "out"}, out, {operands, DType::kFloat32},
                        "the operands' dtype or float32");
  }
}

void validate(const GmmProblem& problem, const Target& target) {
  core::require_rank({kGmm, "a"}, problem.tokens, 2, "[tokens, K]");
  core::require_rank({kGmm, "b"}, problem.weights, 3, "one matrix for each group");
  require_operand({kGmm, "a"}, problem.tokens, target);
  GG_REQUIRE(problem.weights.dtype == problem.tokens.dtype, kGmm, ": b got dtype ",
             to_string(problem.weights.dtype), "; needs a's dtype, ",
             to_string(problem.tokens.dtype), "; cast one of them");
  GG_REQUIRE(problem.weights.size(2) == problem.tokens.size(1), kGmm,
             ": b got a reduction dimension of ", problem.weights.size(2), "; needs a's, ",
             problem.tokens.size(1), "; check trans_b");
  GG_REQUIRE(problem.weights.size(0) == problem.groups.num_groups, kGmm, ": batch_sizes got ",
             problem.groups.num_groups, " groups; needs b's number of matrices, ",
             problem.weights.size(0));
  core::require_shape({kGmm, "out"}, problem.out, {problem.tokens.size(0), problem.weights.size(1)},
                      "[tokens, N]");
  require_out_dtype(kGmm, problem.out, problem.tokens.dtype);
  core::require_distinct_elements({kGmm, "out"}, problem.out);
  core::require_apart({kGmm, "out"}, problem.out, "a", problem.tokens);
  core::require_apart({kGmm, "out"}, problem.out, "b", problem.weights);
  core::require_groups({kGmm, problem.groups.cumulative ? "offs" : "batch_sizes"}, problem.groups,
                       problem.tokens.size(0), target);
}

void validate(const GmmWgradProblem& problem, const Target& target) {
  core::require_rank({kWgrad, "a"}, problem.tokens, 2, "[tokens, K]");
  core::require_rank({kWgrad, "dy"}, problem.dy, 2, "[tokens, N]");
  require_operand({kWgrad, "a"}, problem.tokens, target);
  GG_REQUIRE(problem.dy.dtype == problem.tokens.dtype, kWgrad, ": dy got dtype ",
             to_string(problem.dy.dtype), "; needs a's dtype, ", to_string(problem.tokens.dtype),
             "; cast one of them");
  GG_REQUIRE(problem.dy.size(0) == problem.tokens.size(0), kWgrad, ": dy got ", problem.dy.size(0),
             " rows; needs a's, ", problem.tokens.size(0));
  core::require_shape({kWgrad, "out"}, problem.out,
                      {problem.groups.num_groups, problem.dy.size(1), problem.tokens.size(1)},
                      "one matrix for each group (before trans_b swaps its dimensions)");
  require_out_dtype(kWgrad, problem.out, problem.dy.dtype);
  core::require_distinct_elements({kWgrad, "out"}, problem.out);
  core::require_apart({kWgrad, "out"}, problem.out, "dy", problem.dy);
  core::require_apart({kWgrad, "out"}, problem.out, "a", problem.tokens);
  core::require_groups({kWgrad, problem.groups.cumulative ? "offs" : "batch_sizes"}, problem.groups,
                       problem.dy.size(0), target);
}

// Best first. Which device runs which: path.cc.
constexpr Path kMenu[] = {Path::kParallel, Path::kReference, Path::kSm90, Path::kSm80,
                          Path::kSm75,     Path::kSm70,      Path::kSimt, Path::kPortable};

// The path, and why it is not the device's best one.
template <typename Problem>
void set_path(const char* op, GmmPlan& plan, const Problem& problem, const Target& target) {
  const auto refusal_of = [&](Path path) {
    if (target.kind == Target::Kind::kCpu) return std::string_view{};
    return cuda::gmm_refusal(path, problem, target.limits);
  };
  plan.path = core::choose_path(op, target, kMenu, refusal_of, &plan.because);
}

DeviceLimits granted(const Target& target) {
  DeviceLimits limits = target.limits;
  if (target.max_sms > 0 && target.max_sms < limits.num_sms) {
    limits.num_sms = target.max_sms;
    limits.is_shared = true;
  }
  return limits;
}

}  // namespace

GmmPlan plan_gmm(const GmmProblem& problem, const Target& target) {
  validate(problem, target);
  GmmPlan plan;
  set_path(kGmm, plan, problem, target);
  if (target.kind == Target::Kind::kCuda) cuda::plan_gmm(plan, problem, granted(target));
  return plan;
}

GmmPlan plan_gmm_wgrad(const GmmWgradProblem& problem, const Target& target) {
  validate(problem, target);
  GmmPlan plan;
  plan.k_grouped = true;
  set_path(kWgrad, plan, problem, target);
  if (target.kind == Target::Kind::kCuda) cuda::plan_gmm_wgrad(plan, problem, granted(target));
  return plan;
}

void run(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  core::require_workspace(kGmm, workspace, plan.workspace_bytes);
  if (problem.out.num_elements() == 0) return;
  if (core::is_path_of(plan.path, Target::Kind::kCuda)) {
    cuda::gmm(plan, problem, workspace, stream);
  } else {
    cpu::gmm(plan, problem, stream);
  }
}

void run(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace, Stream stream) {
  core::require_workspace(kWgrad, workspace, plan.workspace_bytes);
  if (problem.out.num_elements() == 0) return;
  if (core::is_path_of(plan.path, Target::Kind::kCuda)) {
    cuda::gmm_wgrad(plan, problem, workspace, stream);
  } else {
    cpu::gmm_wgrad(plan, problem, stream);
  }
}

std::string to_string(const GmmPlan& plan) {
  return base::concat(
      plan.k_grouped ? "gmm_wgrad " : "gmm ", to_string(plan.path), " tile=", plan.policy.tile_m,
      "x", plan.policy.tile_n, "x", plan.policy.tile_k,
      plan.policy.small_rows > 0 ? base::concat(" small_rows=", plan.policy.small_rows) : "",
      plan.policy.equal_tiles ? " equal_tiles" : "",
      plan.policy.stages > 0 ? base::concat(" stages=", plan.policy.stages) : "",
      " blocks<=", plan.num_blocks, " workspace=", plan.workspace_bytes, "B",
      plan.because.empty() ? "" : " because ", plan.because);
}

}  // namespace gg
