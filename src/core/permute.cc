// permute: validate, choose a path, plan, run. The kernels behind the doors
// may assume everything that validate() has checked.
#include "grouped_gemm/permute.h"

#include "base/check.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

constexpr const char* kOp = "permute";

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
  require_int32_count({kOp, "output"}, problem.output.size(0), "rows");

  GG_REQUIRE(problem.num_experts >= 0, kOp, ": num_experts got ", problem.num_experts,
             "; needs 0 (unknown) or more");
  require_int32_count({kOp, "num_experts"}, problem.num_experts, "experts");
  GG_REQUIRE(problem.tokens_per_expert.defined() == problem.offsets.defined(), kOp,
             ": tokens_per_expert and offsets got only one of the two; needs both or neither");
  if (problem.tokens_per_expert.defined()) {
    for (const auto& [name, tensor] : {std::pair{"tokens_per_expert", problem.tokens_per_expert},
                                       std::pair{"offsets", problem.offsets}}) {
      require_shape({kOp, name}, tensor, {problem.num_experts}, "[num_experts]");
      require_dtype({kOp, name}, tensor, {DType::kInt32});
      require_contiguous({kOp, name}, tensor);
    }
  }
  if (problem.slot_of_row.defined()) {
    require_shape({kOp, "slot_of_row"}, problem.slot_of_row, {problem.output.size(0)},
                  "one entry for each row of output");
    require_dtype({kOp, "slot_of_row"}, problem.slot_of_row, {DType::kInt32});
    require_contiguous({kOp, "slot_of_row"}, problem.slot_of_row);
  }
}

}  // namespace

PermutePlan plan_permute(const PermuteProblem& problem, const Target& target) {
  validate(problem);
  PermutePlan plan;
  plan.path = core::choose_path(kOp, target, {Path::kParallel, Path::kReference, Path::kPortable});
  if (target.kind == Target::Kind::kCpu) {
    plan.workspace_bytes = cpu::permute_workspace_bytes(problem);
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
