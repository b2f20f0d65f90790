#include "torch/ops.h"

#include "base/check.h"
#include "grouped_gemm/gmm.h"
#include "grouped_gemm/permute.h"
#include "grouped_gemm/sinkhorn.h"
#include "grouped_gemm/unpermute.h"

namespace gg::torch_binding {
namespace {

// Plans, takes scratch, runs: the same three steps for every operator.
template <typename Plan, typename Problem>
void run_on(const Device& device, const Tensor& like, const Plan& plan, const Problem& problem) {
  const ScratchMemory scratch(like, plan.workspace_bytes);
  gg::run(plan, problem, scratch.workspace(), device.stream());
}

GroupSizes to_groups(const char* op, const Device& device, const Tensor& sizes, bool cumulative) {
  const char* name = cumulative ? "offs" : "batch_sizes";
  GG_REQUIRE(sizes.dim() == 1, op, ": ", name, " got ", sizes.dim(),
             " dimensions; needs 1, an entry for each group");
  const bool on_host = sizes.is_cpu();
  if (!on_host) device.require_same(name, sizes);
  return GroupSizes{sizes.data_ptr(), to_dtype(op, name, sizes.scalar_type(), kNeedsInteger),
                    sizes.size(0), on_host, cumulative};
}

// The dtype asked for, else the operands'.
DType result_dtype(const char* op, std::optional<ScalarType> out_dtype, DType operands) {
  if (!out_dtype) return operands;
  const DType dtype = to_dtype(op, "out_dtype", *out_dtype);
  GG_REQUIRE(dtype == operands || (dtype == DType::kFloat32 && operands != DType::kFloat64), op,
             ": out_dtype got ", to_string(dtype), "; needs the operands' dtype, ",
             to_string(operands), operands == DType::kFloat64 ? "" : ", or float32");
  return dtype;
}

GmmProblem gmm_problem(const Device& device, const Tensor& a, const Tensor& b, const Tensor& sizes,
                       bool cumulative, bool trans_b) {
  device.require_same("b", b);
  const TensorView weights = to_view("gmm", "b", b);
  GG_REQUIRE(weights.rank == 3, "gmm: b got ", weights.rank, " dimensions; needs 3, ",
             trans_b ? "[groups, N, K]" : "[groups, K, N]");
  return GmmProblem{.tokens = to_view("gmm", "a", a),
                    .weights = trans_b ? weights : transposed(weights),
                    .groups = to_groups("gmm", device, sizes, cumulative)};
}

GmmWgradProblem wgrad_problem(const Device& device, const Tensor& a, const Tensor& dy,
                              const Tensor& sizes, bool cumulative) {
  device.require_same("dy", dy);
  return GmmWgradProblem{.dy = to_view("gmm_wgrad", "dy", dy),
                         .tokens = to_view("gmm_wgrad", "a", a),
                         .groups = to_groups("gmm_wgrad", device, sizes, cumulative)};
}

// [tokens, topK] of expert ids given as [tokens, topK] or [tokens].
TensorView to_slots(const char* op, const Tensor& indices) {
  TensorView slots = to_view(op, "indices", indices, kNeedsInteger);
  GG_REQUIRE(slots.rank == 1 || slots.rank == 2, op, ": indices got ", slots.rank,
             " dimensions; needs 2, [tokens, topK], or 1, [tokens]");
  return slots.rank == 2 ? slots : view(slots.data, slots.dtype, {slots.size(0), 1});
}

// [topK, tokens] of a map with any shape; its rows must be whole.
TensorView to_map(const char* op, const Tensor& row_id_map, int64_t topk) {
  const int64_t num_entries = row_id_map.numel();
  GG_REQUIRE(topk >= 0 && (topk == 0 ? num_entries == 0 : num_entries % topk == 0), op,
             ": row_id_map got ", num_entries, " entries; needs topK = ", topk,
             " for each token; check probs");
  const DType dtype = to_dtype(op, "row_id_map", row_id_map.scalar_type(), kNeedsInteger);
  return view(row_id_map.data_ptr(), dtype, {topk, topk > 0 ? num_entries / topk : 0});
}

}  // namespace

Tensor gmm(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b,
           std::optional<ScalarType> out_dtype) {
  const Device device("gmm", "a", a);
  sizes = contiguous(sizes);
  GmmProblem problem = gmm_problem(device, a, b, sizes, cumulative, trans_b);
  GG_REQUIRE(problem.tokens.rank == 2, "gmm: a got ", problem.tokens.rank,
             " dimensions; needs 2, [tokens, K]");
  const DType dtype = result_dtype("gmm", out_dtype, problem.tokens.dtype);
  problem.out = view(nullptr, dtype, {problem.tokens.size(0), problem.weights.size(1)});
  const GmmPlan plan = plan_gmm(problem, device.target());
  Tensor out = empty_like_device(a, {problem.out.size(0), problem.out.size(1)}, dtype);
  problem.out.data = out.data_ptr();
  run_on(device, a, plan, problem);
  return out;
}

void gmm_out(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b, Tensor out) {
  const Device device("gmm", "a", a);
  device.require_same("out", out);
  sizes = contiguous(sizes);
  GmmProblem problem = gmm_problem(device, a, b, sizes, cumulative, trans_b);
  problem.out = to_view("gmm", "out", out);
  run_on(device, a, plan_gmm(problem, device.target()), problem);
}

Tensor gmm_wgrad(Tensor a, Tensor dy, Tensor sizes, bool cumulative, bool trans_b,
                 std::optional<ScalarType> out_dtype) {
  const Device device("gmm_wgrad", "a", a);
  sizes = contiguous(sizes);
  GmmWgradProblem problem = wgrad_problem(device, a, dy, sizes, cumulative);
  GG_REQUIRE(problem.tokens.rank == 2 && problem.dy.rank == 2, "gmm_wgrad: a and dy got ",
             problem.tokens.rank, " and ", problem.dy.rank,
             " dimensions; need 2 each, [tokens, K] and [tokens, N]");
  const DType dtype = result_dtype("gmm_wgrad", out_dtype, problem.tokens.dtype);
  const int64_t num_groups = problem.groups.num_groups;
  const int64_t num_n = problem.dy.size(1);
  const int64_t num_k = problem.tokens.size(1);
  const TensorView transposed_out = view(nullptr, dtype, {num_groups, num_k, num_n});
  problem.out =
      trans_b ? view(nullptr, dtype, {num_groups, num_n, num_k}) : transposed(transposed_out);
  const GmmPlan plan = plan_gmm_wgrad(problem, device.target());
  Tensor out = trans_b ? empty_like_device(a, {num_groups, num_n, num_k}, dtype)
                       : empty_like_device(a, {num_groups, num_k, num_n}, dtype);
  problem.out.data = out.data_ptr();
  run_on(device, a, plan, problem);
  return out;
}

void gmm_wgrad_out(Tensor a, Tensor dy, Tensor sizes, bool cumulative, bool trans_b, Tensor out,
                   bool accumulate) {
  const Device device("gmm_wgrad", "a", a);
  device.require_same("out", out);
  sizes = contiguous(sizes);
  GmmWgradProblem problem = wgrad_problem(device, a, dy, sizes, cumulative);
  const TensorView out_view = to_view("gmm_wgrad", "out", out);
  GG_REQUIRE(out_view.rank == 3, "gmm_wgrad: out got ", out_view.rank,
             " dimensions; needs 3, one matrix for each group");
  problem.out = trans_b ? out_view : transposed(out_view);
  problem.accumulate = accumulate;
  run_on(device, a, plan_gmm_wgrad(problem, device.target()), problem);
}

std::tuple<Tensor, Tensor> permute(Tensor x, Tensor indices, int64_t num_out_tokens) {
  const Device device("permute", "input", x);
  device.require_same("indices", indices);
  x = with_contiguous_rows(x);
  indices = contiguous(indices);
  PermuteProblem problem{.input = to_view("permute", "input", x),
                         .indices = to_slots("permute", indices)};
  const int64_t num_tokens = problem.indices.size(0);
  const int64_t topk = problem.indices.size(1);
  const int64_t num_out = num_out_tokens == 0 ? num_tokens * topk : num_out_tokens;
  GG_REQUIRE(num_out >= 0, "permute: num_out_tokens got ", num_out,
             "; needs 0 (every slot) or more");
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  problem.output = view(nullptr, problem.input.dtype, {num_out, hidden});
  problem.row_id_map = view(nullptr, DType::kInt32, {topk, num_tokens});
  const PermutePlan plan = plan_permute(problem, device.target());
  Tensor output = empty_like_device(x, {num_out, hidden}, problem.input.dtype);
  Tensor row_id_map = empty_like_device(x, {topk * num_tokens}, DType::kInt32);
  problem.output.data = output.data_ptr();
  problem.row_id_map.data = row_id_map.data_ptr();
  run_on(device, x, plan, problem);
  return {output, row_id_map};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> moe_permute(Tensor x, Tensor indices,
                                                       int64_t num_experts) {
  const Device device("moe_permute", "input", x);
  device.require_same("indices", indices);
  GG_REQUIRE(num_experts >= 1, "moe_permute: num_experts got ", num_experts, "; needs 1 or more");
  x = with_contiguous_rows(x);
  indices = contiguous(indices);
  PermuteProblem problem{.input = to_view("moe_permute", "input", x),
                         .indices = to_slots("moe_permute", indices),
                         .num_experts = num_experts,
                         .tokens_per_expert = view(nullptr, DType::kInt32, {num_experts}),
                         .offsets = view(nullptr, DType::kInt32, {num_experts})};
  const int64_t num_tokens = problem.indices.size(0);
  const int64_t topk = problem.indices.size(1);
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  problem.output = view(nullptr, problem.input.dtype, {num_tokens * topk, hidden});
  problem.row_id_map = view(nullptr, DType::kInt32, {topk, num_tokens});
  const PermutePlan plan = plan_permute(problem, device.target());
  Tensor output = empty_like_device(x, {num_tokens * topk, hidden}, problem.input.dtype);
  Tensor row_id_map = empty_like_device(x, {topk, num_tokens}, DType::kInt32);
  Tensor tokens_per_expert = empty_like_device(x, {num_experts}, DType::kInt32);
  Tensor offs = empty_like_device(x, {num_experts}, DType::kInt32);
  problem.output.data = output.data_ptr();
  problem.row_id_map.data = row_id_map.data_ptr();
  problem.tokens_per_expert.data = tokens_per_expert.data_ptr();
  problem.offsets.data = offs.data_ptr();
  run_on(device, x, plan, problem);
  return {output, row_id_map, tokens_per_expert, offs};
}

Tensor unpermute(Tensor x, Tensor row_id_map, std::optional<Tensor> probs, int64_t topk) {
  const Device device("unpermute", "input", x);
  device.require_same("row_id_map", row_id_map);
  x = with_contiguous_rows(x);
  row_id_map = contiguous(row_id_map);
  UnpermuteProblem problem{.input = to_view("unpermute", "input", x),
                           .row_id_map = to_map("unpermute", row_id_map, topk)};
  if (probs) {
    device.require_same("probs", *probs);
    probs = contiguous(*probs);
    problem.probs = to_view("unpermute", "probs", *probs);
  }
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  const int64_t num_tokens = problem.row_id_map.size(1);
  problem.output = view(nullptr, problem.input.dtype, {num_tokens, hidden});
  const UnpermutePlan plan = plan_unpermute(problem, device.target());
  Tensor output = empty_like_device(x, {num_tokens, hidden}, problem.input.dtype);
  problem.output.data = output.data_ptr();
  run_on(device, x, plan, problem);
  return output;
}

std::tuple<Tensor, Tensor> unpermute_bwd(Tensor grad, std::optional<Tensor> x, Tensor row_id_map,
                                         std::optional<Tensor> probs, int64_t topk,
                                         int64_t num_rows, bool needs_x_grad) {
  const Device device("unpermute_bwd", "grad", grad);
  device.require_same("row_id_map", row_id_map);
  grad = with_contiguous_rows(grad);
  row_id_map = contiguous(row_id_map);
  UnpermuteBwdProblem problem{.output_grad = to_view("unpermute_bwd", "grad", grad),
                              .row_id_map = to_map("unpermute_bwd", row_id_map, topk)};
  if (probs) {
    device.require_same("probs", *probs);
    probs = contiguous(*probs);
    problem.probs = to_view("unpermute_bwd", "probs", *probs);
  }
  if (x) {
    device.require_same("input", *x);
    x = with_contiguous_rows(*x);
    problem.input = to_view("unpermute_bwd", "input", *x);
  }
  GG_REQUIRE(num_rows >= 0, "unpermute_bwd: num_rows got ", num_rows, "; needs 0 or more");
  const DType dtype = problem.output_grad.dtype;
  const int64_t hidden = problem.output_grad.rank == 2 ? problem.output_grad.size(1) : 0;
  const int64_t num_tokens = x ? problem.row_id_map.size(1) : 0;
  Tensor x_grad = empty_like_device(grad, {needs_x_grad ? num_rows : 0, hidden}, dtype);
  Tensor probs_grad = empty_like_device(
      grad, {num_tokens, topk}, dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
  if (needs_x_grad) problem.input_grad = to_view("unpermute_bwd", "input_grad", x_grad);
  if (x) problem.probs_grad = to_view("unpermute_bwd", "probs_grad", probs_grad);
  run_on(device, grad, plan_unpermute_bwd(problem, device.target()), problem);
  return {x_grad, probs_grad};
}

std::tuple<Tensor, Tensor, Tensor> sinkhorn(Tensor cost, double tol, int64_t max_iterations) {
  const Device device("sinkhorn", "cost", cost);
  cost = contiguous(cost);
  GG_REQUIRE(cost.dim() == 2, "sinkhorn: cost got ", cost.dim(),
             " dimensions; needs 2, [tokens, experts]");
  GG_REQUIRE(max_iterations >= 1 && max_iterations <= (int64_t{1} << 30),
             "sinkhorn: max_iterations got ", max_iterations, "; needs 1 to 2^30");
  SinkhornProblem problem{.cost = to_view("sinkhorn", "cost", cost)};
  problem.tolerance = tol;
  problem.max_iterations = static_cast<int>(max_iterations);
  Tensor output = empty_like_device(cost, {cost.size(0), cost.size(1)}, problem.cost.dtype);
  Tensor iterations = empty_like_device(cost, {1}, DType::kInt32);
  Tensor error = empty_like_device(cost, {1}, DType::kFloat32);
  problem.output = to_view("sinkhorn", "output", output);
  problem.iterations = to_view("sinkhorn", "iterations", iterations);
  problem.error = to_view("sinkhorn", "error", error);
  run_on(device, cost, plan_sinkhorn(problem, device.target()), problem);
  return {output, iterations, error};
}

}  // namespace gg::torch_binding
