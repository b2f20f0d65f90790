// sinkhorn as a torch operator.
#include "grouped_gemm/sinkhorn.h"

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {

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
  problem.output = view(nullptr, problem.cost.dtype, {cost.size(0), cost.size(1)});
  problem.iterations = view(nullptr, DType::kInt32, {1});
  problem.error = view(nullptr, DType::kFloat32, {1});
  const SinkhornPlan plan = plan_sinkhorn(problem, device.target());
  Tensor output = allocate(cost, problem.output);
  Tensor iterations = allocate(cost, problem.iterations);
  Tensor error = allocate(cost, problem.error);
  run_on(device, cost, plan, problem);
  return {output, iterations, error};
}

}  // namespace gg::torch_binding
