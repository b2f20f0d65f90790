// What route and route_bwd refuse, and in which words: each problem is right but
// for one thing.
#include <gtest/gtest.h>

#include "support/run.h"

namespace gg {
namespace {

using test::refuses;

TensorView f32(std::initializer_list<int64_t> sizes) {
  return view(nullptr, DType::kFloat32, sizes);
}
TensorView i32(std::initializer_list<int64_t> sizes) { return view(nullptr, DType::kInt32, sizes); }

// 6 tokens, 8 experts, 2 of them for each; two sequences.
RouteProblem right_route() {
  return {.options = {.topk = 2},
          .num_sequences = 2,
          .logits = f32({6, 8}),
          .expert_bias = f32({8}),
          .probs = f32({6, 2}),
          .indices = i32({6, 2}),
          .tokens_per_expert = i32({2, 8}),
          .score_sums = f32({2, 8}),
          .z_sums = f32({2}),
          .invalid_tokens = i32({2}),
          .row_id_map = i32({2, 6}),
          .offsets = i32({8}),
          .align_size = 16};
}

RouteBwdProblem right_route_bwd() {
  return {.options = {.topk = 2},
          .num_sequences = 2,
          .logits = f32({6, 8}),
          .indices = i32({6, 2}),
          .probs = f32({6, 2}),
          .probs_grad = f32({6, 2}),
          .score_sums_grad = f32({2, 8}),
          .z_sums_grad = f32({2}),
          .logits_grad = f32({6, 8})};
}

template <typename Problem>
void expect_refused(Problem problem, TensorView Problem::* member, const TensorView& wrong,
                    std::initializer_list<std::string> parts) {
  problem.*member = wrong;
  EXPECT_TRUE(refuses([&] { test::plan_for(problem, Target::cpu()); }, parts));
}

void expect_refused(const RouteOptions& options, std::initializer_list<std::string> parts) {
  RouteProblem problem = right_route();
  problem.options = options;
  EXPECT_TRUE(refuses([&] { plan_route(problem, Target::cpu()); }, parts));
  RouteBwdProblem backward = right_route_bwd();
  backward.options = options;
  EXPECT_TRUE(refuses([&] { plan_route_bwd(backward, Target::cpu()); }, {"route_bwd: "}));
}

TEST(Route, TakesRightProblems) {
  EXPECT_NO_THROW(plan_route(right_route(), Target::cpu()));
  EXPECT_NO_THROW(plan_route_bwd(right_route_bwd(), Target::cpu()));
}

TEST(RouteRefuses, WrongTensors) {
  expect_refused(right_route(), &RouteProblem::logits, f32({6}), {"route: logits got 1 dim"});
  expect_refused(right_route(), &RouteProblem::logits, i32({6, 8}), {"route: logits", "int32"});
  expect_refused(right_route(), &RouteProblem::logits, f32({6, 1025}), {"1 to 1024 experts"});
  expect_refused(right_route(), &RouteProblem::logits, f32({6, 0}), {"[6, 0]", "1 to 1024"});
  expect_refused(right_route(), &RouteProblem::expert_bias, f32({7}), {"expert_bias", "[7]"});
  expect_refused(right_route(), &RouteProblem::probs, f32({6, 3}), {"probs", "[6, 3]", "[6, 2]"});
  expect_refused(right_route(), &RouteProblem::indices, f32({6, 2}), {"indices", "float32"});
  expect_refused(right_route(), &RouteProblem::tokens_per_expert, i32({8}),
                 {"tokens_per_expert got shape [8]", "[2, 8]"});
  expect_refused(right_route(), &RouteProblem::z_sums, TensorView{}, {"z_sums", "both"});
  expect_refused(right_route(), &RouteProblem::score_sums, f32({1, 8}), {"score_sums", "[1, 8]"});
  expect_refused(right_route_bwd(), &RouteBwdProblem::probs, f32({6, 3}),
                 {"route_bwd: probs got shape [6, 3]", "[6, 2]"});
  expect_refused(right_route_bwd(), &RouteBwdProblem::probs, TensorView{},
                 {"route_bwd: probs got none beside probs_grad", "forward"});
  expect_refused(right_route_bwd(), &RouteBwdProblem::probs_grad, i32({6, 2}),
                 {"route_bwd: probs_grad", "int32"});
  expect_refused(right_route_bwd(), &RouteBwdProblem::score_sums_grad, f32({6, 8}),
                 {"route_bwd: score_sums_grad"});
  expect_refused(right_route_bwd(), &RouteBwdProblem::z_sums_grad, f32({1}), {"z_sums_grad"});
  expect_refused(right_route_bwd(), &RouteBwdProblem::logits_grad, f32({6, 7}), {"logits_grad"});
}

TEST(RouteRefuses, WrongOptions) {
  expect_refused({.topk = 0}, {"topk got 0", "1 to 32"});
  expect_refused({.topk = 9}, {"topk got 9", "8 experts"});
  expect_refused({.topk = 2, .num_groups = 3}, {"num_groups got 3", "divisor of the 8"});
  expect_refused({.topk = 2, .num_groups = 4, .group_topk = 5}, {"group_topk got 5"});
  expect_refused({.topk = 3, .num_groups = 4}, {"topk got 3", "at most the 2 experts"});
  expect_refused({.topk = 2, .group_score_topk = 0}, {"group_score_topk got 0"});
}

TEST(RouteRefuses, WrongRowMaps) {
  expect_refused(right_route(), &RouteProblem::offsets, TensorView{}, {"offsets got none", "both"});
  expect_refused(right_route(), &RouteProblem::offsets, i32({9}), {"offsets got shape [9]", "[8]"});
  expect_refused(right_route(), &RouteProblem::row_id_map, i32({6, 2}),
                 {"row_id_map got shape [6, 2]", "[2, 6]"});
  expect_refused(right_route(), &RouteProblem::row_id_map, f32({2, 6}), {"row_id_map", "float32"});
  for (int64_t align : {int64_t{0}, int64_t{-1}, int64_t{INT32_MAX}, int64_t{1} << 40}) {
    RouteProblem problem = right_route();
    problem.align_size = align;
    EXPECT_TRUE(refuses([&] { plan_route(problem, Target::cpu()); }, {"route: align_size got "}));
  }
  RouteProblem problem = right_route();
  problem.row_id_map = problem.offsets = TensorView{};
  EXPECT_TRUE(refuses([&] { plan_route(problem, Target::cpu()); }, {"align_size got 16 without"}));
}

TEST(RouteRefuses, SequencesThatDoNotDivideTheTokens) {
  for (int64_t sequences : {0, -1, 4}) {
    RouteProblem problem = right_route();
    problem.num_sequences = sequences;
    EXPECT_TRUE(refuses([&] { plan_route(problem, Target::cpu()); },
                        {"num_sequences got " + std::to_string(sequences), "6 tokens"}));
  }
}

TEST(RouteRefuses, Float64OnAGpu) {
  RouteProblem problem = right_route();
  problem.logits = view(nullptr, DType::kFloat64, {6, 8});
  EXPECT_TRUE(refuses([&] { plan_route(problem, Target::cuda(DeviceLimits{90, 132, 232448})); },
                      {"float64", "CPU only"}));
}

}  // namespace
}  // namespace gg
