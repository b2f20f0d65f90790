// unpermute and its backward as torch operators.
#include "grouped_gemm/unpermute.h"

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {
namespace {

// How many tokens a map without entries is of: its own shape says so, or that of probs.
int64_t tokens_without_slots(const Tensor& row_id_map, const std::optional<Tensor>& probs) {
  if (row_id_map.dim() == 2) return row_id_map.size(1);
  return probs && probs->dim() == 2 ? probs->size(0) : 0;
}

// [topK, tokens] of a map with any shape; its rows must be whole.
TensorView to_map(const char* op, const Tensor& row_id_map, const std::optional<Tensor>& probs,
                  int64_t topk) {
  const int64_t num_entries = row_id_map.numel();
  GG_REQUIRE(topk >= 0 && (topk == 0 ? num_entries == 0 : num_entries % topk == 0), op,
             ": row_id_map got ", num_entries, " entries; needs topK = ", topk,
             " for each token; check probs");
  const DType dtype = to_dtype(op, "row_id_map", row_id_map.scalar_type(), kNeedsInteger);
  const int64_t num_tokens =
      topk > 0 ? num_entries / topk : tokens_without_slots(row_id_map, probs);
  return view(row_id_map.data_ptr(), dtype, {topk, num_tokens});
}

// Checks and views of what unpermute and its backward both take; copies where
// rows have gaps, into the caller's variables, which keep them alive.
template <typename Problem>
void set_routing(const char* op, const Device& device, Tensor& row_id_map,
                 std::optional<Tensor>& probs, int64_t topk, Problem& problem) {
  device.require_same("row_id_map", row_id_map);
  row_id_map = contiguous(row_id_map);
  problem.row_id_map = to_map(op, row_id_map, probs, topk);
  if (!probs) return;
  device.require_same("probs", *probs);
  probs = contiguous(*probs);
  problem.probs = to_view(op, "probs", *probs);
}

TensorView rows_view(const char* op, const char* argument, const Device& device, Tensor& rows) {
  device.require_same(argument, rows);
  rows = with_contiguous_rows(rows);
  return to_view(op, argument, rows);
}

}  // namespace

Tensor unpermute(Tensor x, Tensor row_id_map, std::optional<Tensor> probs, int64_t topk,
                 std::optional<Tensor> residual) {
  constexpr const char* kOp = "unpermute";
  const Device device(kOp, "input", x);
  UnpermuteProblem problem{.input = rows_view(kOp, "input", device, x)};
  set_routing(kOp, device, row_id_map, probs, topk, problem);
  if (residual) problem.residual = rows_view(kOp, "residual", device, *residual);
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  const int64_t num_tokens = problem.row_id_map.size(1);
  problem.output = view(nullptr, problem.input.dtype, {num_tokens, hidden});
  const UnpermutePlan plan = plan_unpermute(problem, device.target());
  Tensor output = allocate(x, problem.output);
  run_on(device, x, plan, problem);
  return output;
}

std::tuple<Tensor, Tensor> unpermute_bwd(Tensor grad, std::optional<Tensor> x, Tensor row_id_map,
                                         std::optional<Tensor> probs, int64_t topk,
                                         int64_t num_rows, bool needs_x_grad) {
  constexpr const char* kOp = "unpermute_bwd";
  const Device device(kOp, "grad", grad);
  UnpermuteBwdProblem problem{.output_grad = rows_view(kOp, "grad", device, grad)};
  set_routing(kOp, device, row_id_map, probs, topk, problem);
  if (x) problem.input = rows_view(kOp, "input", device, *x);
  GG_REQUIRE(num_rows >= 0, kOp, ": num_rows got ", num_rows, "; needs 0 or more");
  const DType dtype = problem.output_grad.dtype;
  const int64_t hidden = problem.output_grad.rank == 2 ? problem.output_grad.size(1) : 0;
  const int64_t num_tokens = x ? problem.row_id_map.size(1) : 0;
  Tensor x_grad = empty_like_device(grad, {needs_x_grad ? num_rows : 0, hidden}, dtype);
  Tensor probs_grad = empty_like_device(
      grad, {num_tokens, topk}, dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
  if (needs_x_grad) problem.input_grad = to_view(kOp, "input_grad", x_grad);
  if (x) problem.probs_grad = to_view(kOp, "probs_grad", probs_grad);
  run_on(device, grad, plan_unpermute_bwd(problem, device.target()), problem);
  return {x_grad, probs_grad};
}

}  // namespace gg::torch_binding
