// permute: validate, choose a path, plan, run. The kernels behind the doors
// may assume everything that validate() has checked.
#include "grouped_gemm/permute.h"

#include "base/check.h"
#include "base/math.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

constexpr const char* kOp = "permute";

// The experts' number, what is told of their groups, padding and capacity.
void validate_groups(const PermuteProblem& problem) {
  using namespace core;
  GG_REQUIRE(problem.num_experts >= 0, kOp, ": num_experts got ", problem.num_experts,
             "; needs 0 (unknown) or more");
  require_int32_count({kOp, "num_experts"}, problem.num_experts, "experts");
  GG_REQUIRE(problem.tokens_per_expert.defined() == problem.offsets.defined(), kOp,
             ": tokens_per_expert and offsets got only one of the two; needs both or neither");
  const bool has_groups = problem.num_experts > 0 && problem.offsets.defined();
  GG_REQUIRE(problem.align_size >= 1, kOp, ": align_size got ", problem.align_size,
             "; needs 1 (no padding) or more");
  GG_REQUIRE(problem.align_size == 1 || has_groups, kOp, ": align_size got ", problem.align_size,
             " without groups; needs num_experts, tokens_per_expert and offsets");
  GG_REQUIRE(problem.capacity >= kNoCapacity, kOp, ": capacity got ", problem.capacity,
             "; needs 0 or more slots, or none");
  GG_REQUIRE(problem.capacity == kNoCapacity || has_groups, kOp, ": capacity got ",
             problem.capacity, " without groups; needs num_experts, tokens_per_expert and offsets");
  if (problem.align_size > 1) {
    require_int32_count({kOp, "align_size"}, problem.align_size, "rows");
    require_int32_count({kOp, "align_size"}, max_permuted_rows(problem), "rows with the pads");
  }
  if (!problem.tokens_per_expert.defined()) return;
  for (const auto& [name, tensor] : {std::pair{"tokens_per_expert", problem.tokens_per_expert},
                                     std::pair{"offsets", problem.offsets}}) {
    require_shape({kOp, name}, tensor, {problem.num_experts}, "[num_experts]");
    require_dtype({kOp, name}, tensor, {DType::kInt32});
    require_contiguous({kOp, name}, tensor);
  }
}

void validate_given_map(const PermuteProblem& problem) {
  if (!problem.map_is_given) return;
  GG_REQUIRE(problem.num_experts > 0 && problem.offsets.defined(), kOp,
             ": row_id_map got given without groups; needs num_experts, tokens_per_expert and "
             "offsets beside it");
  GG_REQUIRE(problem.capacity == kNoCapacity, kOp, ": capacity got ", problem.capacity,
             " beside a given row_id_map; needs none; give the expert ids instead");
  GG_REQUIRE(!problem.slot_of_row.defined(), kOp,
             ": slot_of_row got a tensor beside a given row_id_map; needs none; give the expert "
             "ids instead");
}

void validate_probs(const PermuteProblem& problem) {
  using namespace core;
  GG_REQUIRE(problem.drop_policy != DropPolicy::kProbs || problem.probs.defined(), kOp,
             ": drop_policy got probs without probs; needs probs, the weights of the slots");
  if (!problem.probs.defined()) return;
  require_shape({kOp, "probs"}, problem.probs, {problem.indices.size(0), problem.indices.size(1)},
                "[tokens, topK], as indices");
  require_dtype({kOp, "probs"}, problem.probs,
                {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64});
  require_contiguous({kOp, "probs"}, problem.probs);
  require_shape({kOp, "permuted_probs"}, problem.permuted_probs, {problem.output.size(0)},
                "one for each row of output");
  require_dtype({kOp, "permuted_probs"}, problem.permuted_probs, {problem.probs.dtype});
  require_contiguous({kOp, "permuted_probs"}, problem.permuted_probs);
}

void validate_scales(const PermuteProblem& problem) {
  using namespace core;
  if (!problem.scales.defined()) return;
  require_rank({kOp, "scales"}, problem.scales, 2, "[tokens, blocks of a row]");
  require_shape({kOp, "scales"}, problem.scales, {problem.input.size(0), problem.scales.size(1)},
                "a row for each of input's tokens");
  require_dtype({kOp, "scales"}, problem.scales, {DType::kFloat32});
  require_contiguous_rows({kOp, "scales"}, problem.scales);
  require_shape({kOp, "permuted_scales"}, problem.permuted_scales,
                {problem.output.size(0), problem.scales.size(1)}, "a row for each of output's");
  require_dtype({kOp, "permuted_scales"}, problem.permuted_scales, {DType::kFloat32});
  require_contiguous({kOp, "permuted_scales"}, problem.permuted_scales);
}

void validate(const PermuteProblem& problem) {
  using namespace core;
  require_rank({kOp, "input"}, problem.input, 2, "[tokens, hidden]");
  require_rank({kOp, "indices"}, problem.indices, 2, "[tokens, topK]");
  require_dtype({kOp, "input"}, problem.input,
                {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat8E4M3,
                 DType::kFloat8E5M2, DType::kFloat64});
  require_dtype({kOp, "indices"}, problem.indices, {DType::kInt32, DType::kInt64},
                "cast the expert ids");
  const int64_t num_tokens = problem.input.size(0);
  const int64_t topk = problem.indices.size(1);
  if (problem.map_is_given) {
    require_shape({kOp, "row_id_map"}, problem.row_id_map, {topk, num_tokens},
                  "[topK, tokens], a column for each of input's tokens");
  }
  require_shape({kOp, "indices"}, problem.indices, {num_tokens, topk},
                "as many rows of expert ids as input's tokens");
  require_rank({kOp, "output"}, problem.output, 2, "[rows, hidden]");
  require_shape({kOp, "output"}, problem.output, {problem.output.size(0), problem.input.size(1)},
                "input's hidden size");
  require_dtype({kOp, "output"}, problem.output, {problem.input.dtype});
  require_shape({kOp, "row_id_map"}, problem.row_id_map, {topk, num_tokens}, "[topK, tokens]");
  require_dtype({kOp, "row_id_map"}, problem.row_id_map, {DType::kInt32});
  require_contiguous_rows({kOp, "input"}, problem.input);
  require_contiguous({kOp, "indices"}, problem.indices);
  require_contiguous({kOp, "output"}, problem.output);
  require_contiguous({kOp, "row_id_map"}, problem.row_id_map);
  require_int32_count({kOp, "indices"}, num_tokens * topk, "slots (tokens times topK)");
  validate_groups(problem);
  validate_given_map(problem);
  require_int32_count({kOp, "output"}, problem.output.size(0), "rows");

  if (problem.slot_of_row.defined()) {
    require_shape({kOp, "slot_of_row"}, problem.slot_of_row, {problem.output.size(0)},
                  "one entry for each row of output");
    require_dtype({kOp, "slot_of_row"}, problem.slot_of_row, {DType::kInt32});
    require_contiguous({kOp, "slot_of_row"}, problem.slot_of_row);
  }
  validate_probs(problem);
  validate_scales(problem);
}

}  // namespace

int64_t max_permuted_rows(const PermuteProblem& problem) {
  const int64_t num_slots = problem.indices.num_elements();
  const int64_t align = problem.align_size;
  // Pads are fewest where few groups have slots, and most where each has one.
  const int64_t num_groups = base::min(problem.num_experts, num_slots);
  const int64_t padded =
      align == 1 ? num_slots : (num_slots + num_groups * (align - 1)) / align * align;
  if (problem.capacity == kNoCapacity || problem.capacity >= num_slots) return padded;
  const int64_t of_group = base::round_up(problem.capacity, align);
  return of_group > padded / base::max(num_groups, 1) ? padded : num_groups * of_group;
}

PermutePlan plan_permute(const PermuteProblem& problem, const Target& target) {
  validate(problem);
  PermutePlan plan;
  plan.path = core::choose_path(kOp, target, core::kPlainMenu);
  if (target.kind == Target::Kind::kCpu) {
    plan.workspace_bytes = problem.map_is_given ? 0 : cpu::permute_workspace_bytes(problem);
  } else {
    cuda::plan_permute(plan, problem, target.limits);
  }
  return plan;
}

void run(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
         Stream stream) {
  core::require_workspace(kOp, workspace, plan.workspace_bytes);
  if (plan.path == Path::kPortable) {
    cuda::permute(plan, problem, workspace, stream);
  } else {
    cpu::permute(plan, problem, workspace, stream);
  }
}

std::string to_string(const PermutePlan& plan) {
  return base::concat("permute ", to_string(plan.path), " map=", plan.map_launches, "x",
                      plan.num_map_blocks, " blocks items=", plan.map_items,
                      " bins=", plan.num_bins, " slots_per_block=", plan.slots_per_block,
                      " vector=", plan.vector_bytes, "B workspace=", plan.workspace_bytes, "B");
}

}  // namespace gg
