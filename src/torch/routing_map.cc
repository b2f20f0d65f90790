// routing_map as a torch operator.
#include "grouped_gemm/routing_map.h"

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {

Tensor routing_map_to_indices(Tensor routing_map, int64_t topk) {
  constexpr const char* kOp = "routing_map_to_indices";
  const Device device(kOp, "routing_map", routing_map);
  GG_REQUIRE(routing_map.scalar_type() == ScalarType::Bool && routing_map.dim() == 2, kOp,
             ": routing_map got a tensor of another dtype or ", routing_map.dim(),
             " dimensions; needs bool [tokens, experts]");
  GG_REQUIRE(topk >= 0, kOp, ": topk got ", topk, "; needs 0 or more experts of a token");
  routing_map = contiguous(routing_map);
  const int64_t num_tokens = routing_map.size(0);
  RoutingMapProblem problem{
      .routing_map = view(routing_map.data_ptr(), DType::kBool, {num_tokens, routing_map.size(1)}),
      .indices = view(nullptr, DType::kInt32, {num_tokens, topk})};
  const RoutingMapPlan plan = plan_routing_map(problem, device.target());
  Tensor indices = allocate(routing_map, problem.indices);
  run_on(device, routing_map, plan, problem);
  return indices;
}

}  // namespace gg::torch_binding
