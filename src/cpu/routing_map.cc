// routing_map on the CPU: tokens are independent of each other.
#include <algorithm>

#include "cpu/door.h"
#include "cpu/parallel.h"

namespace gg::cpu {

void routing_map(const RoutingMapPlan& plan, const RoutingMapProblem& problem, Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  const int64_t num_experts = problem.routing_map.size(1);
  const int64_t topk = problem.indices.size(1);
  const uint8_t* map = static_cast<const uint8_t*>(problem.routing_map.data);
  int32_t* indices = static_cast<int32_t*>(problem.indices.data);
  parallel_for(stream, problem.routing_map.size(0), rows_per_piece(num_experts),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   int32_t* ids = indices + t * topk;
                   int64_t k = 0;
                   for (int64_t e = 0; e < num_experts && k < topk; ++e) {
                     if (map[t * num_experts + e] != 0) ids[k++] = static_cast<int32_t>(e);
                   }
                   std::fill(ids + k, ids + topk, -1);
                 }
               });
}

}  // namespace gg::cpu
