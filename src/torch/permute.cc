// permute, moe_permute and permute_by_map as torch operators.
#include "grouped_gemm/permute.h"

#include <limits>

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {
namespace {

// [tokens, topK] of something given as [tokens, topK] or [tokens].
TensorView to_slots(const TensorView& given) {
  return given.rank == 1 ? view(given.data, given.dtype, {given.size(0), 1}) : given;
}

TensorView to_slots_of_ids(const char* op, const Tensor& indices) {
  const TensorView slots = to_view(op, "indices", indices, kNeedsInteger);
  GG_REQUIRE(slots.rank == 1 || slots.rank == 2, op, ": indices got ", slots.rank,
             " dimensions; needs 2, [tokens, topK], or 1, [tokens]");
  return to_slots(slots);
}

// What comes back for a result that was not asked for.
Tensor nothing_like(const Tensor& x) { return empty_like_device(x, {0}, DType::kFloat32); }

// Everything but the results' memory; the output has a row for each slot.
PermuteProblem permute_problem(const char* op, const Device& device, const Tensor& x,
                               const Tensor& indices) {
  device.require_same("indices", indices);
  PermuteProblem problem{.input = to_view(op, "input", x), .indices = to_slots_of_ids(op, indices)};
  const int64_t num_tokens = problem.indices.size(0);
  const int64_t topk = problem.indices.size(1);
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  problem.output = view(nullptr, problem.input.dtype, {num_tokens * topk, hidden});
  problem.row_id_map = view(nullptr, DType::kInt32, {topk, num_tokens});
  return problem;
}

void require_align_size(const char* op, int64_t align_size) {
  GG_REQUIRE(align_size >= 1 && align_size <= INT32_MAX, op, ": align_size got ", align_size,
             "; needs 1 (no padding) or more rows, at most 2^31 - 1");
}

// Probs and scales beside the rows, and the views of where they go.
void take_along(const char* op, const Device& device, PermuteProblem& problem,
                std::optional<Tensor>& probs, std::optional<Tensor>& scales) {
  const int64_t num_rows = problem.output.size(0);
  if (probs) {
    device.require_same("probs", *probs);
    probs = contiguous(*probs);
    problem.probs = to_slots(to_view(op, "probs", *probs));
    problem.permuted_probs = view(nullptr, problem.probs.dtype, {num_rows});
  }
  if (scales) {
    device.require_same("scales", *scales);
    scales = with_contiguous_rows(*scales);
    problem.scales = to_view(op, "scales", *scales);
    const int64_t num_blocks = problem.scales.rank == 2 ? problem.scales.size(1) : 0;
    problem.permuted_scales = view(nullptr, problem.scales.dtype, {num_rows, num_blocks});
  }
}

// One part of a map that is given.
TensorView part_of_map(const char* op, const Device& device, const char* name, Tensor& part) {
  device.require_same(name, part);
  part = contiguous(part);
  return to_view(op, name, part, kNeedsInteger);
}

}  // namespace

std::tuple<Tensor, Tensor> permute(Tensor x, Tensor indices, int64_t num_out_tokens) {
  const Device device("permute", "input", x);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // a map entry is an int32
  GG_REQUIRE(num_out_tokens >= 0 && num_out_tokens <= kMost, "permute: num_out_tokens got ",
             num_out_tokens, "; needs 0 (every slot) or more, at most ", kMost);
  x = with_contiguous_rows(x);
  indices = contiguous(indices);
  PermuteProblem problem = permute_problem("permute", device, x, indices);
  if (num_out_tokens > 0) problem.output.sizes[0] = num_out_tokens;
  const PermutePlan plan = plan_permute(problem, device.target());
  Tensor output = allocate(x, problem.output);
  Tensor row_id_map = empty_like_device(x, {indices.numel()}, DType::kInt32);
  problem.row_id_map.data = row_id_map.data_ptr();
  run_on(device, x, plan, problem);
  return {output, row_id_map};
}

MoePermuted moe_permute(Tensor x, Tensor indices, int64_t num_experts, std::optional<Tensor> probs,
                        std::optional<Tensor> scales, int64_t align_size,
                        std::optional<int64_t> capacity, bool drop_by_probs) {
  constexpr const char* kOp = "moe_permute";
  const Device device(kOp, "input", x);
  GG_REQUIRE(num_experts >= 1, kOp, ": num_experts got ", num_experts, "; needs 1 or more");
  require_align_size(kOp, align_size);
  GG_REQUIRE(!capacity || *capacity >= 0, kOp, ": capacity got ", capacity.value_or(0),
             "; needs 0 or more slots for each expert, or None");
  x = with_contiguous_rows(x);
  indices = contiguous(indices);
  PermuteProblem problem = permute_problem(kOp, device, x, indices);
  problem.num_experts = num_experts;
  problem.align_size = align_size;
  problem.capacity = capacity.value_or(kNoCapacity);
  problem.drop_policy = drop_by_probs ? DropPolicy::kProbs : DropPolicy::kPosition;
  problem.output.sizes[0] = max_permuted_rows(problem);
  problem.tokens_per_expert = view(nullptr, DType::kInt32, {num_experts});
  problem.offsets = problem.tokens_per_expert;
  Tensor permuted_probs = nothing_like(x);
  Tensor permuted_scales = nothing_like(x);
  take_along(kOp, device, problem, probs, scales);
  const PermutePlan plan = plan_permute(problem, device.target());
  Tensor output = allocate(x, problem.output);
  Tensor row_id_map = allocate(x, problem.row_id_map);
  Tensor tokens_per_expert = allocate(x, problem.tokens_per_expert);
  Tensor offs = allocate(x, problem.offsets);
  if (probs) permuted_probs = allocate(x, problem.permuted_probs);
  if (scales) permuted_scales = allocate(x, problem.permuted_scales);
  run_on(device, x, plan, problem);
  return {output, row_id_map, tokens_per_expert, offs, permuted_probs, permuted_scales};
}

std::tuple<Tensor, Tensor, Tensor> permute_by_map(Tensor x, Tensor row_id_map,
                                                  Tensor tokens_per_expert, Tensor offs,
                                                  std::optional<Tensor> probs,
                                                  std::optional<Tensor> scales,
                                                  int64_t align_size) {
  constexpr const char* kOp = "permute_by_map";
  const Device device(kOp, "input", x);
  require_align_size(kOp, align_size);
  x = with_contiguous_rows(x);
  PermuteProblem problem{
      .input = to_view(kOp, "input", x),
      .row_id_map = part_of_map(kOp, device, "row_id_map", row_id_map),
      .tokens_per_expert = part_of_map(kOp, device, "tokens_per_expert", tokens_per_expert),
      .offsets = part_of_map(kOp, device, "offs", offs),
      .align_size = align_size,
      .map_is_given = true};
  GG_REQUIRE(problem.row_id_map.rank == 2, kOp, ": row_id_map got ", problem.row_id_map.rank,
             " dimensions; needs 2, [topK, tokens]");
  problem.num_experts = problem.offsets.rank == 1 ? problem.offsets.size(0) : 0;
  problem.indices =
      view(nullptr, DType::kInt32, {problem.row_id_map.size(1), problem.row_id_map.size(0)});
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  problem.output = view(nullptr, problem.input.dtype, {max_permuted_rows(problem), hidden});
  Tensor permuted_probs = nothing_like(x);
  Tensor permuted_scales = nothing_like(x);
  take_along(kOp, device, problem, probs, scales);
  const PermutePlan plan = plan_permute(problem, device.target());
  Tensor output = allocate(x, problem.output);
  if (probs) permuted_probs = allocate(x, problem.permuted_probs);
  if (scales) permuted_scales = allocate(x, problem.permuted_scales);
  run_on(device, x, plan, problem);
  return {output, permuted_probs, permuted_scales};
}

Tensor permute_probs_bwd(Tensor grad, Tensor row_id_map) {
  constexpr const char* kOp = "permute_probs_bwd";
  const Device device(kOp, "permuted_probs_grad", grad);
  device.require_same("row_id_map", row_id_map);
  grad = contiguous(grad);
  row_id_map = contiguous(row_id_map);
  PermuteProbsBwdProblem problem{
      .permuted_probs_grad = to_view(kOp, "permuted_probs_grad", grad),
      .row_id_map = to_view(kOp, "row_id_map", row_id_map, kNeedsInteger)};
  const bool is_map = problem.row_id_map.rank == 2;
  problem.probs_grad = view(nullptr, problem.permuted_probs_grad.dtype,
                            {is_map ? problem.row_id_map.size(1) : 0, problem.row_id_map.size(0)});
  const PermuteProbsBwdPlan plan = plan_permute_probs_bwd(problem, device.target());
  Tensor probs_grad = allocate(grad, problem.probs_grad);
  run_on(device, grad, plan, problem);
  return probs_grad;
}

}  // namespace gg::torch_binding
