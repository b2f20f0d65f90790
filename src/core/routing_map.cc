// routing_map: validate, choose a path, run.
#include "grouped_gemm/routing_map.h"

#include "base/check.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

constexpr const char* kOp = "routing_map";

void validate(const RoutingMapProblem& problem) {
  using namespace core;
  require_rank({kOp, "routing_map"}, problem.routing_map, 2, "[tokens, experts]");
  require_dtype({kOp, "routing_map"}, problem.routing_map, {DType::kBool});
  require_contiguous({kOp, "routing_map"}, problem.routing_map);
  require_int32_count({kOp, "routing_map"}, problem.routing_map.size(1), "experts");
  require_rank({kOp, "indices"}, problem.indices, 2, "[tokens, topK]");
  require_shape({kOp, "indices"}, problem.indices,
                {problem.routing_map.size(0), problem.indices.size(1)}, "routing_map's tokens");
  require_dtype({kOp, "indices"}, problem.indices, {DType::kInt32});
  require_contiguous({kOp, "indices"}, problem.indices);
  require_int32_count({kOp, "indices"}, problem.indices.num_elements(), "slots");
}

}  // namespace

RoutingMapPlan plan_routing_map(const RoutingMapProblem& problem, const Target& target) {
  validate(problem);
  return {.path = core::choose_path(kOp, target, core::kPlainMenu)};
}

void run(const RoutingMapPlan& plan, const RoutingMapProblem& problem, Workspace workspace,
         Stream stream) {
  core::require_workspace(kOp, workspace, plan.workspace_bytes);
  if (plan.path == Path::kPortable) {
    cuda::routing_map(problem, stream);
  } else {
    cpu::routing_map(plan, problem, stream);
  }
}

std::string to_string(const RoutingMapPlan& plan) {
  return base::concat("routing_map ", to_string(plan.path));
}

}  // namespace gg
