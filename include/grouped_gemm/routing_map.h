// A router's choice as a table of yes and no, turned into the expert ids that
// permute takes. Letters as in permute.h.
#pragma once

#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"

namespace gg {

// indices[t] = the experts that routing_map names for token t, in ascending order,
// then -1. Of more than topK the first topK are taken.
struct RoutingMapProblem {
  TensorView routing_map{};  // [T, E] bool, contiguous
  TensorView indices{};      // [T, topK] int32, contiguous
};

struct RoutingMapPlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;

  bool operator==(const RoutingMapPlan&) const = default;
};

// Throws Error for anything wrong with the problem.
RoutingMapPlan plan_routing_map(const RoutingMapProblem& problem, const Target& target);
void run(const RoutingMapPlan& plan, const RoutingMapProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const RoutingMapPlan& plan);

}  // namespace gg
