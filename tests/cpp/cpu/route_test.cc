// route and its gradient on the CPU against the header's rules in double.
#include <gtest/gtest.h>

#include <limits>

#include "support/row_map_case.h"
#include "support/run.h"

namespace gg::test {
namespace {

TEST(Route, FollowsItsRulesForEveryVariantAndShape) {
  for (const RouteOptions& options : route_variants()) {
    for (const auto& [T, E] : kRouteShapes) {
      for (bool has_bias : {false, true}) {
        for (Path path : kCpuPaths) {
          SCOPED_TRACE(testing::Message() << T << " x " << E << " bias " << has_bias << " topk "
                                          << options.topk << " " << to_string(path));
          RouteCase route(T, E, options);
          route.has_bias = has_bias;
          run_on_cpu(route.problem(), path);
          route.expect_right(1e-5);
          run_on_cpu(route.bwd_problem(), path);
          route.expect_right_gradient(1e-5);
        }
      }
    }
  }
}

TEST(Route, ComposesTheGradientOfWeightsAlone) {
  for (const RouteOptions& options : route_variants()) {
    RouteCase route(20, 12, options);
    route.only_weights = true;
    run_on_cpu(route.problem(), Path::kParallel);
    run_on_cpu(route.bwd_problem(), Path::kParallel);
    route.expect_right_gradient(1e-5);
  }
  for (int64_t E : kOddExperts) {
    RouteCase route(5, E, {.topk = 5});
    run_on_cpu(route.problem(), Path::kParallel);
    run_on_cpu(route.bwd_problem(), Path::kParallel);
    route.expect_right_gradient(1e-5);
  }
}

TEST(Route, WithoutAnyGradientStoresZeros) {
  RouteCase route(7, 12, {.topk = 2});
  RouteBwdProblem backward = route.bwd_problem();
  backward.probs = backward.probs_grad = TensorView{};
  backward.score_sums_grad = backward.z_sums_grad = TensorView{};
  run_on_cpu(backward, Path::kParallel);
  EXPECT_TRUE(all_zero(route.logits_grad));
}

TEST(Route, TakesEveryDtype) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    RouteCase route(40, 24, {.topk = 2, .pre_softmax = true}, dtype);
    run_on_cpu(route.problem(), Path::kParallel);
    route.expect_right(1e-5);
    run_on_cpu(route.bwd_problem(), Path::kParallel);
    route.expect_right_gradient(1e-5);
  }
}

TEST(Route, GivesBothPathsTheSameBits) {
  RouteCase route(1000, 64, {.topk = 8}, DType::kFloat32, 4);
  run_on_cpu(route.problem(), Path::kReference);
  const std::vector<unsigned char> sums = route.score_sums.bytes();
  const std::vector<unsigned char> probs = route.probs.bytes();
  route.score_sums.poison();
  run_on_cpu(route.problem(), Path::kParallel);
  EXPECT_EQ(route.score_sums.bytes(), sums);
  EXPECT_EQ(route.probs.bytes(), probs);
}

TEST(Route, KeepsSequencesApart) {
  for (int64_t sequences : {1, 3, 90}) {
    RouteCase route(90, 12, {.topk = 2, .score_function = ScoreFunction::kSigmoid}, DType::kFloat32,
                    sequences);
    run_on_cpu(route.problem(), Path::kParallel);
    route.expect_right(1e-5);
    run_on_cpu(route.bwd_problem(), Path::kParallel);
    route.expect_right_gradient(1e-5);
  }
}

TEST(Route, WithoutTokensCountsNothing) {
  RouteCase route(0, 12, {.topk = 2}, DType::kFloat32, 2);
  run_on_cpu(route.problem(), Path::kParallel);
  EXPECT_TRUE(all_zero(route.counts));
  EXPECT_TRUE(all_zero(route.score_sums));
  EXPECT_TRUE(all_zero(route.z_sums));
  run_on_cpu(route.bwd_problem(), Path::kParallel);
}

TEST(Route, NeedsNoSumsAndNoCountOfInvalidTokens) {
  const RouteCase route(9, 4, {.topk = 2});
  RouteProblem problem = route.problem();
  problem.score_sums = problem.z_sums = problem.invalid_tokens = TensorView{};
  EXPECT_NO_THROW(run_on_cpu(problem, Path::kParallel));
}

TEST(RouteMap, IsThatOfASortByExpert) {
  for (const auto& [T, E, topk] : kRouteMapShapes) {
    for (int64_t align : {1, 16}) {
      for (Path path : kCpuPaths) {
        SCOPED_TRACE(testing::Message() << T << " x " << E << " topk " << topk << " align " << align
                                        << " " << to_string(path));
        const int64_t sequences = T % 3 == 0 ? 3 : 1;
        const RouteCase route(T, E, {.topk = topk}, DType::kFloat32, sequences);
        const RowMapCase map(route, align);
        RouteProblem problem = route.problem();
        problem.row_id_map = map.row_id_map.view();
        problem.offsets = map.offsets.view();
        problem.align_size = align;
        run_on_cpu(problem, path);
        map.expect_right(route);
      }
    }
  }
}

TEST(RouteLogits, OfNanCountTheirTokensAndStayInRange) {
  RouteCase route(9, 4, {.topk = 2});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int64_t i : {5, 6, 20}) route.logits.set(i, nan);
  route.logits.set(33, std::numeric_limits<double>::infinity());
  route.logits.set(0, -std::numeric_limits<double>::infinity());
  run_on_cpu(route.problem(), Path::kParallel);
  EXPECT_EQ(route.invalid.get_integer(0), 3);
  for (int64_t index : route.indices.integers()) {
    EXPECT_GE(index, 0);
    EXPECT_LT(index, 4);
  }
}

TEST(RouteLogits, ThatTieGoToTheLowestIndex) {
  for (const RouteOptions& options : route_variants()) {
    RouteCase route(5, 16, options);
    route.logits.fill(std::vector<double>(80, 0.5));
    run_on_cpu(route.problem(), Path::kParallel);
    for (int64_t i = 0; i < route.indices.num_elements(); ++i) {
      EXPECT_EQ(route.indices.get_integer(i), i % options.topk);
    }
  }
}

}  // namespace
}  // namespace gg::test
