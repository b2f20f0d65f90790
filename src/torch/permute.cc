// permute and moe_permute as torch operators.
#include "grouped_gemm/permute.h"

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {
namespace {

// [tokens, topK] of expert ids given as [tokens, topK] or [tokens].
TensorView to_slots(const char* op, const Tensor& indices) {
  TensorView slots = to_view(op, "indices", indices, kNeedsInteger);
  GG_REQUIRE(slots.rank == 1 || slots.rank == 2, op, ": indices got ", slots.rank,
             " dimensions; needs 2, [tokens, topK], or 1, [tokens]");
  return slots.rank == 2 ? slots : view(slots.data, slots.dtype, {slots.size(0), 1});
}

// Everything but the results' memory; the output has a row for each slot.
PermuteProblem permute_problem(const char* op, const Device& device, const Tensor& x,
                               const Tensor& indices) {
  device.require_same("indices", indices);
  PermuteProblem problem{.input = to_view(op, "input", x), .indices = to_slots(op, indices)};
  const int64_t num_tokens = problem.indices.size(0);
  const int64_t topk = problem.indices.size(1);
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  problem.output = view(nullptr, problem.input.dtype, {num_tokens * topk, hidden});
  problem.row_id_map = view(nullptr, DType::kInt32, {topk, num_tokens});
  return problem;
}

}  // namespace

std::tuple<Tensor, Tensor> permute(Tensor x, Tensor indices, int64_t num_out_tokens) {
  const Device device("permute", "input", x);
  GG_REQUIRE(num_out_tokens >= 0, "permute: num_out_tokens got ", num_out_tokens,
             "; needs 0 (every slot) or more");
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

std::tuple<Tensor, Tensor, Tensor, Tensor> moe_permute(Tensor x, Tensor indices,
                                                       int64_t num_experts) {
  const Device device("moe_permute", "input", x);
  GG_REQUIRE(num_experts >= 1, "moe_permute: num_experts got ", num_experts, "; needs 1 or more");
  x = with_contiguous_rows(x);
  indices = contiguous(indices);
  PermuteProblem problem = permute_problem("moe_permute", device, x, indices);
  problem.num_experts = num_experts;
  problem.tokens_per_expert = view(nullptr, DType::kInt32, {num_experts});
  problem.offsets = problem.tokens_per_expert;
  const PermutePlan plan = plan_permute(problem, device.target());
  Tensor output = allocate(x, problem.output);
  Tensor row_id_map = allocate(x, problem.row_id_map);
  Tensor tokens_per_expert = allocate(x, problem.tokens_per_expert);
  Tensor offs = allocate(x, problem.offsets);
  run_on(device, x, plan, problem);
  return {output, row_id_map, tokens_per_expert, offs};
}

}  // namespace gg::torch_binding
