// route and its gradient on a GPU against the header's rules in double.
#include <gtest/gtest.h>

#include <limits>

#include "cuda/support/device.h"
#include "support/row_map_case.h"

namespace gg::test {
namespace {

class CudaRoute : public OnDevice {
 protected:
  // Runs forward and backward on the device and leaves what they wrote in the case.
  static void run_case(RouteCase& route) {
    DeviceTensor logits(route.logits), bias(route.bias), probs(route.probs), ids(route.indices),
        counts(route.counts), sums(route.score_sums), z(route.z_sums), invalid(route.invalid),
        probs_grad(route.probs_grad), sums_grad(route.score_sums_grad), z_grad(route.z_sums_grad),
        grad(route.logits_grad);
    RouteProblem problem = route.problem();
    problem.logits = logits.view();
    if (route.has_bias) problem.expert_bias = bias.view();
    problem.probs = probs.view();
    problem.indices = ids.view();
    problem.tokens_per_expert = counts.view();
    problem.score_sums = sums.view();
    problem.z_sums = z.view();
    problem.invalid_tokens = invalid.view();
    run_on_device(problem);
    RouteBwdProblem backward = route.bwd_problem();
    backward.logits = logits.view();
    backward.indices = ids.view();
    backward.probs = probs.view();
    backward.probs_grad = probs_grad.view();
    if (!route.only_weights) {
      backward.score_sums_grad = sums_grad.view();
      backward.z_sums_grad = z_grad.view();
    }
    backward.logits_grad = grad.view();
    run_on_device(backward);
    route.probs.fill(probs.download().values());
    route.indices.fill_integers(ids.download().integers());
    route.counts.fill_integers(counts.download().integers());
    route.score_sums.fill(sums.download().values());
    route.z_sums.fill(z.download().values());
    route.invalid.fill_integers(invalid.download().integers());
    route.logits_grad.fill(grad.download().values());
    EXPECT_TRUE(same_bits(logits.download(), route.logits)) << "the input is left alone";
  }

  // Routes with a row map; without sums and sequences its kernel adds up the counts.
  static void expect_right_map(RouteCase& route, int64_t align, bool has_sums) {
    RowMapCase map(route, align);
    DeviceTensor logits(route.logits), probs(route.probs), ids(route.indices), counts(route.counts),
        sums(route.score_sums), z(route.z_sums), row_id_map(map.row_id_map), offsets(map.offsets);
    run_on_device(RouteProblem{.options = route.options,
                               .num_sequences = route.num_sequences,
                               .logits = logits.view(),
                               .probs = probs.view(),
                               .indices = ids.view(),
                               .tokens_per_expert = counts.view(),
                               .score_sums = has_sums ? sums.view() : TensorView{},
                               .z_sums = has_sums ? z.view() : TensorView{},
                               .row_id_map = row_id_map.view(),
                               .offsets = offsets.view(),
                               .align_size = align});
    route.indices.fill_integers(ids.download().integers());
    map.row_id_map.fill_integers(row_id_map.download().integers());
    map.offsets.fill_integers(offsets.download().integers());
    map.expect_right(route);
    std::vector<int64_t> count(static_cast<size_t>(route.counts.num_elements()));
    const std::vector<int64_t> chosen = route.indices.integers();
    for (size_t slot = 0; slot < chosen.size(); ++slot) {
      const int64_t token = static_cast<int64_t>(slot) / route.options.topk;
      const int64_t sequence = token / (route.T() / route.num_sequences);
      ++count[static_cast<size_t>(sequence * route.E() + chosen[slot])];
    }
    EXPECT_EQ(counts.download().integers(), count);
  }
};

TEST_F(CudaRoute, FollowsItsRulesForEveryVariantAndShape) {
  for (const RouteOptions& options : route_variants()) {
    for (const auto& [T, E] : kRouteShapes) {
      for (bool has_bias : {false, true}) {
        SCOPED_TRACE(testing::Message()
                     << T << " x " << E << " bias " << has_bias << " topk " << options.topk);
        RouteCase route(T, E, options);
        route.has_bias = has_bias;
        run_case(route);
        route.expect_right(1e-5);
        route.expect_right_gradient(1e-5);
      }
    }
  }
}

TEST_F(CudaRoute, ComposesTheGradientOfWeightsAloneForEveryVariantAndShape) {
  for (const RouteOptions& options : route_variants()) {
    for (const auto& [T, E] : kRouteShapes) {
      SCOPED_TRACE(testing::Message() << T << " x " << E << " topk " << options.topk);
      RouteCase route(T, E, options);
      route.only_weights = true;
      run_case(route);
      route.expect_right_gradient(1e-5);
    }
  }
}

TEST_F(CudaRoute, ComposesRowsOfAnyLengthAndNumber) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (int64_t E : kOddExperts) {
      for (int topk : {1, 2, 5}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " E " << E << " topk " << topk);
        RouteCase route(75, E, {.topk = topk}, dtype);
        route.only_weights = true;
        run_case(route);
        route.expect_right_gradient(1e-5);
      }
    }
  }
  RouteCase many(9000, 8, {.topk = 8});
  many.only_weights = true;
  run_case(many);
  many.expect_right_gradient(1e-5);
}

TEST_F(CudaRoute, WithoutAnyGradientStoresZeros) {
  RouteCase route(70, 12, {.topk = 2});
  DeviceTensor logits(route.logits), ids(route.indices), grad(route.logits_grad);
  RouteBwdProblem backward{.options = route.options,
                           .logits = logits.view(),
                           .indices = ids.view(),
                           .logits_grad = grad.view()};
  run_on_device(backward);
  EXPECT_TRUE(all_zero(grad.download()));
}

TEST_F(CudaRoute, TakesEveryDtype) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    RouteCase route(400, 48, {.topk = 2, .pre_softmax = true}, dtype);
    run_case(route);
    route.expect_right(1e-5);
    route.expect_right_gradient(1e-5);
  }
}

TEST_F(CudaRoute, KeepsSequencesApartWhateverTheirNumber) {
  for (int64_t sequences : {1, 3, 70, 2100}) {
    RouteCase route(2100, 12, {.topk = 2, .score_function = ScoreFunction::kSigmoid},
                    DType::kFloat32, sequences);
    run_case(route);
    route.expect_right(1e-5);
    route.expect_right_gradient(1e-5);
  }
}

TEST_F(CudaRoute, AddsUpManyBlocks) {
  RouteCase route(40000, 16, {.topk = 4});
  run_case(route);
  route.expect_right(1e-5);
}

TEST_F(CudaRoute, WithoutTokensCountsNothing) {
  RouteCase route(0, 12, {.topk = 2}, DType::kFloat32, 2);
  run_case(route);
  EXPECT_TRUE(all_zero(route.counts));
  EXPECT_TRUE(all_zero(route.score_sums));
  EXPECT_TRUE(all_zero(route.z_sums));
}

TEST_F(CudaRoute, MakesTheRowMapOfASortByExpert) {
  for (const auto& [T, E, topk] : kRouteMapShapes) {
    for (int64_t align : {1, 16, 128}) {
      for (int64_t sequences : {1, 3}) {
        for (bool has_sums : {false, true}) {
          if (T % sequences != 0) continue;
          SCOPED_TRACE(testing::Message() << T << " x " << E << " topk " << topk << " align "
                                          << align << " in " << sequences << " sums " << has_sums);
          RouteCase route(T, E, {.topk = topk}, DType::kFloat32, sequences);
          expect_right_map(route, align, has_sums);
        }
      }
    }
  }
}

TEST_F(CudaRoute, MakesTheRowMapOfManyTilesAndOfManySlots) {
  for (const auto& [T, topk] : {std::pair<int64_t, int>{70001, 3}, {40000, 12}, {530000, 8}}) {
    SCOPED_TRACE(testing::Message() << T << " topk " << topk);
    RouteCase route(T, 16, {.topk = topk}, DType::kBFloat16);  // many ties
    expect_right_map(route, 1, false);
  }
}

TEST_F(CudaRoute, CountsTokensWithNanAndKeepsIdsInRange) {
  for (int64_t E : {4, 64}) {
    RouteCase route(90, E, {.topk = 2});
    route.logits.set(5, std::numeric_limits<double>::quiet_NaN());
    route.logits.set(80 * E + 1, std::numeric_limits<double>::infinity());
    run_case(route);
    EXPECT_EQ(route.invalid.get_integer(0), 2);
    for (int64_t index : route.indices.integers()) {
      EXPECT_GE(index, 0);
      EXPECT_LT(index, E);
    }
  }
}

TEST_F(CudaRoute, RepeatsItsBits) {
  RouteCase first(30000, 128, {.topk = 8}), second(30000, 128, {.topk = 8});
  run_case(first);
  run_case(second);
  EXPECT_TRUE(same_bits(first.score_sums, second.score_sums));
  EXPECT_TRUE(same_bits(first.probs, second.probs));
  EXPECT_TRUE(same_bits(first.logits_grad, second.logits_grad));
}

}  // namespace
}  // namespace gg::test
