// gmm and gmm_wgrad as torch operators.
#include "grouped_gemm/gmm.h"

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {
namespace {

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

}  // namespace

Tensor gmm(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b,
           std::optional<ScalarType> out_dtype, bool allow_tf32) {
  const Device device("gmm", "a", a);
  sizes = contiguous(sizes);
  GmmProblem problem = gmm_problem(device, a, b, sizes, cumulative, trans_b);
  problem.allow_tf32 = allow_tf32;
  GG_REQUIRE(problem.tokens.rank == 2, "gmm: a got ", problem.tokens.rank,
             " dimensions; needs 2, [tokens, K]");
  const DType dtype = result_dtype("gmm", out_dtype, problem.tokens.dtype);
  problem.out = view(nullptr, dtype, {problem.tokens.size(0), problem.weights.size(1)});
  const GmmPlan plan = plan_gmm(problem, device.target());
  Tensor out = allocate(a, problem.out);
  run_on(device, a, plan, problem);
  return out;
}

void gmm_out(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b, Tensor out,
             bool allow_tf32) {
  const Device device("gmm", "a", a);
  device.require_same("out", out);
  sizes = contiguous(sizes);
  GmmProblem problem = gmm_problem(device, a, b, sizes, cumulative, trans_b);
  problem.allow_tf32 = allow_tf32;
  problem.out = to_view("gmm", "out", out);
  run_on(device, a, plan_gmm(problem, device.target()), problem);
}

Tensor gmm_wgrad(Tensor a, Tensor dy, Tensor sizes, bool cumulative, bool trans_b,
                 std::optional<ScalarType> out_dtype, bool allow_tf32) {
  const Device device("gmm_wgrad", "a", a);
  sizes = contiguous(sizes);
  GmmWgradProblem problem = wgrad_problem(device, a, dy, sizes, cumulative);
  problem.allow_tf32 = allow_tf32;
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
                   bool accumulate, bool allow_tf32) {
  const Device device("gmm_wgrad", "a", a);
  device.require_same("out", out);
  sizes = contiguous(sizes);
  GmmWgradProblem problem = wgrad_problem(device, a, dy, sizes, cumulative);
  problem.allow_tf32 = allow_tf32;
  const TensorView out_view = to_view("gmm_wgrad", "out", out);
  GG_REQUIRE(out_view.rank == 3, "gmm_wgrad: out got ", out_view.rank,
             " dimensions; needs 3, one matrix for each group");
  problem.out = trans_b ? out_view : transposed(out_view);
  problem.accumulate = accumulate;
  run_on(device, a, plan_gmm_wgrad(problem, device.target()), problem);
}

}  // namespace gg::torch_binding
