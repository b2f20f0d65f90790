// permute's padding, capacity, and what travels with the rows, on the CPU: both
// paths against lists of slots.
#include <gtest/gtest.h>

#include "support/permute_options.h"
#include "support/run.h"

namespace gg::test {
namespace {

void expect_right_on_both_paths(PermuteCase&& permute) {
  for (Path path : kCpuPaths) {
    SCOPED_TRACE(to_string(path));
    permute.poison();
    run_on_cpu(permute.problem(), path);
    permute.expect_right();
    for (Tensor* tensor : {&permute.output, &permute.permuted_probs, &permute.permuted_scales}) {
      tensor->poison();
    }
    run_on_cpu(PermuteCase::by_its_map(permute.problem()), path);
    permute.expect_right();
  }
}

class PermuteWithOptions : public testing::TestWithParam<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, PermuteWithOptions, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(PermuteWithOptions, FillsTheRowsThatTheyAskFor) {
  const int64_t experts = GetParam().num_experts();
  for (const PermuteOptions& options : permute_options()) {
    SCOPED_TRACE(options_text(options));
    for (int64_t topk : {1, 3}) {
      std::vector<int64_t> ids = random_ids(GetParam(), topk, 30);
      if (!ids.empty()) ids[ids.size() / 2] = experts;  // no expert
      expect_right_on_both_paths({ids, topk, 5, DType::kBFloat16, -1, experts, options});
    }
  }
}

TEST_P(PermuteWithOptions, CutsTheRowsThatTheOutputHasNoRoomFor) {
  const std::vector<int64_t> ids = random_ids(GetParam(), 2, 31);
  for (const PermuteOptions& options : permute_options()) {
    SCOPED_TRACE(options_text(options));
    for (int64_t num_out : {int64_t{0}, static_cast<int64_t>(ids.size()) / 2}) {
      expect_right_on_both_paths(
          {ids, 2, 8, DType::kFloat32, num_out, GetParam().num_experts(), options});
    }
  }
}

TEST(PermuteCapacity, KeepsTheFirstOfEqualProbsAndNaNLast) {
  const PermuteOptions options{.capacity = 3, .drop_policy = DropPolicy::kProbs, .has_probs = true};
  PermuteCase permute(std::vector<int64_t>(8, 0), 1, 1, DType::kFloat32, -1, 1, options);
  permute.probs.fill({0.5, NAN, -0.0, 0.0, 0.5, -INFINITY, 0.0, -1.0});
  run_on_cpu(permute.problem(), Path::kParallel);
  EXPECT_EQ(permute.row_id_map.integers(), (std::vector<int64_t>{0, -1, 1, -1, 2, -1, -1, -1}));
}

TEST(PermuteRows, AreBoundedByWhatAnyRoutingMayFill) {
  const auto rows = [](int64_t slots, int64_t experts, int64_t align, int64_t capacity) {
    return max_permuted_rows({.indices = view(nullptr, DType::kInt64, {slots, 1}),
                              .num_experts = experts,
                              .align_size = align,
                              .capacity = capacity});
  };
  EXPECT_EQ(rows(10, 4, 1, kNoCapacity), 10);
  EXPECT_EQ(rows(10, 4, 16, kNoCapacity), 64);
  EXPECT_EQ(rows(3, 100, 16, kNoCapacity), 48);
  EXPECT_EQ(rows(100, 4, 1, 20), 80);
  EXPECT_EQ(rows(100, 4, 16, 20), 128);
  EXPECT_EQ(rows(100, 4, 16, 0), 0);
  EXPECT_EQ(rows(0, 4, 16, 5), 0);
}

TEST(PermuteProbsBwd, BringsEachSlotThatHasARowItsGradient) {
  Tensor grad(DType::kFloat32, {5}), map(DType::kInt32, {2, 3}),
      probs_grad(DType::kFloat32, {3, 2});
  grad.fill({1, 2, 3, 4, 5});
  map.fill_integers({4, -1, 0, 1, 5, 2});
  for (Path path : kCpuPaths) {
    probs_grad.poison();
    run_on_cpu(PermuteProbsBwdProblem{.permuted_probs_grad = grad.view(),
                                      .row_id_map = map.view(),
                                      .probs_grad = probs_grad.view()},
               path);
    EXPECT_EQ(probs_grad.values(), (std::vector<double>{5, 2, 0, 0, 1, 3}));
  }
}

}  // namespace
}  // namespace gg::test
