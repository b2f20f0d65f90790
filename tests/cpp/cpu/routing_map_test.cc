// routing_map on the CPU: a token's experts in ascending order, then -1.
#include <gtest/gtest.h>

#include "support/run.h"

namespace gg::test {
namespace {

std::vector<int64_t> indices_of(const std::vector<int64_t>& map, int64_t experts, int64_t topk,
                                Path path) {
  const int64_t num_tokens = static_cast<int64_t>(map.size()) / experts;
  Tensor routing_map(DType::kBool, {num_tokens, experts});
  Tensor indices(DType::kInt32, {num_tokens, topk});
  routing_map.fill_integers(map);
  run_on_cpu(RoutingMapProblem{.routing_map = routing_map.view(), .indices = indices.view()}, path);
  EXPECT_TRUE(indices.guards_intact());
  return indices.integers();
}

TEST(RoutingMap, GivesEachTokensExpertsInOrder) {
  const std::vector<int64_t> map = {0, 1, 0, 1, /**/ 0, 0, 0, 0, /**/ 1, 1, 1, 1};
  for (Path path : kCpuPaths) {
    EXPECT_EQ(indices_of(map, 4, 2, path), (std::vector<int64_t>{1, 3, -1, -1, 0, 1}));
    EXPECT_EQ(indices_of(map, 4, 5, path),
              (std::vector<int64_t>{1, 3, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 2, 3, -1}));
    EXPECT_EQ(indices_of(map, 4, 0, path), std::vector<int64_t>{});
  }
}

TEST(RoutingMapRefuses, WhatIsNoTableOfYesAndNo) {
  const TensorView map = view(nullptr, DType::kBool, {4, 3});
  const TensorView indices = view(nullptr, DType::kInt32, {4, 2});
  EXPECT_NO_THROW(plan_routing_map({map, indices}, Target::cpu()));
  EXPECT_TRUE(refuses(
      [&] { plan_routing_map({view(nullptr, DType::kInt32, {4, 3}), indices}, Target::cpu()); },
      {"routing_map: routing_map got dtype int32", "needs bool"}));
  EXPECT_TRUE(
      refuses([&] { plan_routing_map({map, view(nullptr, DType::kInt32, {3, 2})}, Target::cpu()); },
              {"routing_map: indices got shape [3, 2]", "needs [4, 2]"}));
}

}  // namespace
}  // namespace gg::test
