// routing_map on a GPU: what the CPU gives.
#include <gtest/gtest.h>

#include "cuda/support/device.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {
namespace {

class CudaRoutingMap : public OnDevice {};

TEST_F(CudaRoutingMap, GivesTheIndicesOfTheCpu) {
  Random random(40);
  for (int64_t experts : {0, 1, 31, 32, 33, 130}) {
    for (int64_t topk : {0, 1, 8, 40, 200}) {
      SCOPED_TRACE(testing::Message() << experts << " experts, topK " << topk);
      Tensor map(DType::kBool, {67, experts}), indices(DType::kInt32, {67, topk});
      std::vector<int64_t> chosen(static_cast<size_t>(67 * experts));
      for (int64_t& entry : chosen) entry = random.below(4) == 0 ? 1 : 0;
      map.fill_integers(chosen);
      DeviceTensor map_there(map), indices_there(indices);
      run_on_device(
          RoutingMapProblem{.routing_map = map_there.view(), .indices = indices_there.view()});
      run_on_cpu(RoutingMapProblem{.routing_map = map.view(), .indices = indices.view()},
                 Path::kReference);
      EXPECT_TRUE(same_bits(indices_there.download(), indices));
    }
  }
}

}  // namespace
}  // namespace gg::test
