// route, route_bwd: validate, choose a path, plan, run.
#include "grouped_gemm/route.h"

#include <cmath>

#include "base/check.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

constexpr const char* kForward = "route";
constexpr const char* kBackward = "route_bwd";

void require_logits(const char* op, const TensorView& logits, const Target& target) {
  core::require_rank({op, "logits"}, logits, 2, "[tokens, experts]");
  if (target.kind == Target::Kind::kCpu) {
    core::require_dtype({op, "logits"}, logits,
                        {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64});
  } else {
    core::require_dtype({op, "logits"}, logits,
                        {DType::kFloat32, DType::kBFloat16, DType::kFloat16},
                        "cast it (float64 runs on the CPU only)");
  }
  core::require_contiguous({op, "logits"}, logits);
  core::require_int32_count({op, "logits"}, logits.size(0), "tokens");
  GG_REQUIRE(logits.size(1) >= 1 && logits.size(1) <= kMaxRouteExperts, op, ": logits got shape ",
             shape_string(logits), "; needs 1 to ", kMaxRouteExperts, " experts");
}

void require_options(const char* op, const RouteOptions& o, int64_t num_experts) {
  GG_REQUIRE(o.topk >= 1 && o.topk <= kMaxRouteTopk && o.topk <= num_experts, op, ": topk got ",
             o.topk, "; needs 1 to ", kMaxRouteTopk, ", at most the ", num_experts, " experts");
  GG_REQUIRE(
      o.num_groups >= 1 && o.num_groups <= kMaxRouteGroups && num_experts % o.num_groups == 0, op,
      ": num_groups got ", o.num_groups, "; needs 1 to ", kMaxRouteGroups, ", a divisor of the ",
      num_experts, " experts");
  GG_REQUIRE(o.group_topk >= 1 && o.group_topk <= o.num_groups, op, ": group_topk got ",
             o.group_topk, "; needs 1 to num_groups, ", o.num_groups);
  const int64_t group_size = num_experts / o.num_groups;
  GG_REQUIRE(o.topk <= o.group_topk * group_size, op, ": topk got ", o.topk, "; needs at most the ",
             o.group_topk * group_size, " experts of group_topk=", o.group_topk, " groups of ",
             group_size, "; choose from more groups");
  GG_REQUIRE(o.group_score_topk >= 1, op, ": group_score_topk got ", o.group_score_topk,
             "; needs 1 (a group's best expert) or more");
  GG_REQUIRE(std::isfinite(o.scaling_factor), op, ": scaling_factor got ", o.scaling_factor,
             "; needs a finite number");
}

void require_sequences(const char* op, int64_t num_sequences, int64_t num_tokens) {
  GG_REQUIRE(num_sequences >= 1 && num_sequences <= INT32_MAX && num_tokens % num_sequences == 0,
             op, ": num_sequences got ", num_sequences, "; needs 1 or more, a divisor of the ",
             num_tokens, " tokens");
}

// Sums and weights: float32, beside float64 logits float64.
void require_wide(core::Argument argument, const TensorView& tensor,
                  std::initializer_list<int64_t> sizes, const char* layout, DType logits) {
  core::require_shape(argument, tensor, sizes, layout);
  core::require_dtype(argument, tensor,
                      {logits == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32});
  core::require_contiguous(argument, tensor);
}

void require_int32(core::Argument argument, const TensorView& tensor,
                   std::initializer_list<int64_t> sizes, const char* layout) {
  core::require_shape(argument, tensor, sizes, layout);
  core::require_dtype(argument, tensor, {DType::kInt32});
  core::require_contiguous(argument, tensor);
}

// The map's own shapes, and numbers of rows that int32 can name.
void validate_map(const RouteProblem& p) {
  GG_REQUIRE(p.row_id_map.defined() == p.offsets.defined(), kForward, ": offsets got ",
             p.offsets.defined() ? "a tensor" : "none",
             "; needs both row_id_map and offsets, or neither");
  GG_REQUIRE(p.align_size >= 1, kForward, ": align_size got ", p.align_size,
             "; needs 1 (no padding) or more");
  GG_REQUIRE(p.align_size == 1 || p.row_id_map.defined(), kForward, ": align_size got ",
             p.align_size, " without a row map; needs row_id_map and offsets");
  if (!p.row_id_map.defined()) return;
  const int64_t T = p.logits.size(0);
  const int64_t topk = p.options.topk;
  require_int32({kForward, "row_id_map"}, p.row_id_map, {topk, T}, "[topk, tokens]");
  require_int32({kForward, "offsets"}, p.offsets, {p.logits.size(1)}, "one end for each expert");
  core::require_int32_count({kForward, "row_id_map"}, T * topk, "slots (tokens times topk)");
  core::require_int32_count({kForward, "align_size"}, p.align_size, "rows");
  core::require_int32_count({kForward, "align_size"}, row_map_problem(p).output.size(0),
                            "rows with the pads");
}

void validate(const RouteProblem& p, const Target& target) {
  require_logits(kForward, p.logits, target);
  const int64_t T = p.logits.size(0);
  const int64_t E = p.logits.size(1);
  const DType dtype = p.logits.dtype;
  require_options(kForward, p.options, E);
  require_sequences(kForward, p.num_sequences, T);
  if (p.expert_bias.defined()) {
    require_wide({kForward, "expert_bias"}, p.expert_bias, {E}, "one value for each expert", dtype);
  }
  require_wide({kForward, "probs"}, p.probs, {T, p.options.topk}, "[tokens, topk]", dtype);
  require_int32({kForward, "indices"}, p.indices, {T, p.options.topk}, "[tokens, topk]");
  require_int32({kForward, "tokens_per_expert"}, p.tokens_per_expert, {p.num_sequences, E},
                "[num_sequences, experts]");
  GG_REQUIRE(p.score_sums.defined() == p.z_sums.defined(), kForward, ": z_sums got ",
             p.z_sums.defined() ? "a tensor" : "none",
             "; needs both score_sums and z_sums, or neither");
  if (p.score_sums.defined()) {
    require_wide({kForward, "score_sums"}, p.score_sums, {p.num_sequences, E},
                 "[num_sequences, experts]", dtype);
    require_wide({kForward, "z_sums"}, p.z_sums, {p.num_sequences}, "[num_sequences]", dtype);
  }
  if (p.invalid_tokens.defined()) {
    require_int32({kForward, "invalid_tokens"}, p.invalid_tokens, {p.num_sequences},
                  "[num_sequences]");
  }
  validate_map(p);
}

void validate(const RouteBwdProblem& p, const Target& target) {
  require_logits(kBackward, p.logits, target);
  const int64_t T = p.logits.size(0);
  const int64_t E = p.logits.size(1);
  const DType dtype = p.logits.dtype;
  require_options(kBackward, p.options, E);
  require_sequences(kBackward, p.num_sequences, T);
  require_int32({kBackward, "indices"}, p.indices, {T, p.options.topk}, "[tokens, topk]");
  if (p.probs.defined()) {
    require_wide({kBackward, "probs"}, p.probs, {T, p.options.topk}, "[tokens, topk]", dtype);
  }
  if (p.probs_grad.defined()) {
    GG_REQUIRE(p.probs.defined(), kBackward,
               ": probs got none beside probs_grad; needs those of the forward");
    require_wide({kBackward, "probs_grad"}, p.probs_grad, {T, p.options.topk}, "[tokens, topk]",
                 dtype);
  }
  if (p.score_sums_grad.defined()) {
    require_wide({kBackward, "score_sums_grad"}, p.score_sums_grad, {p.num_sequences, E},
                 "[num_sequences, experts]", dtype);
  }
  if (p.z_sums_grad.defined()) {
    require_wide({kBackward, "z_sums_grad"}, p.z_sums_grad, {p.num_sequences}, "[num_sequences]",
                 dtype);
  }
  core::require_shape({kBackward, "logits_grad"}, p.logits_grad, {T, E}, "logits' shape");
  core::require_dtype({kBackward, "logits_grad"}, p.logits_grad, {dtype});
  core::require_contiguous({kBackward, "logits_grad"}, p.logits_grad);
}

}  // namespace

PermuteProblem row_map_problem(const RouteProblem& problem) {
  const int64_t T = problem.logits.size(0);
  const int64_t E = problem.logits.size(1);
  PermuteProblem map{.input = view(nullptr, DType::kFloat32, {T, 0}),
                     .indices = problem.indices,
                     .row_id_map = problem.row_id_map,
                     .num_experts = E,
                     .tokens_per_expert = view(problem.tokens_per_expert.data, DType::kInt32, {E}),
                     .offsets = problem.offsets,
                     .align_size = problem.align_size};
  map.output = view(nullptr, DType::kFloat32, {max_permuted_rows(map), 0});
  return map;
}

RoutePlan plan_route(const RouteProblem& problem, const Target& target) {
  validate(problem, target);
  RoutePlan plan;
  plan.path = core::choose_path(kForward, target, core::kPlainMenu);
  if (target.kind == Target::Kind::kCpu) {
    cpu::plan_route(plan, problem);
  } else {
    cuda::plan_route(plan, problem, target.limits);
  }
  return plan;
}

RoutePlan plan_route_bwd(const RouteBwdProblem& problem, const Target& target) {
  validate(problem, target);
  RoutePlan plan;
  plan.path = core::choose_path(kBackward, target, core::kPlainMenu);
  if (target.kind == Target::Kind::kCuda) cuda::plan_route_bwd(plan, problem);
  return plan;
}

void run(const RoutePlan& plan, const RouteProblem& problem, Workspace workspace, Stream stream) {
  core::require_workspace(kForward, workspace, plan.workspace_bytes);
  if (plan.path == Path::kPortable) {
    cuda::route(plan, problem, workspace, stream);
  } else {
    cpu::route(plan, problem, workspace, stream);
  }
}

void run(const RoutePlan& plan, const RouteBwdProblem& problem, Workspace, Stream stream) {
  if (plan.path == Path::kPortable) {
    cuda::route_bwd(plan, problem, stream);
  } else {
    cpu::route_bwd(plan, problem, stream);
  }
}

std::string to_string(const RoutePlan& plan) {
  const std::string text = base::concat(
      "route ", to_string(plan.path), " pieces_per_sequence=", plan.pieces_per_sequence,
      " lanes_per_token=", plan.lanes_per_token, " values_per_lane=", plan.values_per_lane,
      " tokens_per_tile=", plan.tokens_per_tile, " workspace=", plan.workspace_bytes, "B");
  if (plan.map.map_launches == 0) return text;  // none, or on the CPU
  return base::concat(text, " tokens_per_piece=", plan.tokens_per_piece,
                      " totals=", plan.adds_totals ? "yes" : "no", "; ", to_string(plan.map));
}

}  // namespace gg
