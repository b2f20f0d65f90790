// permute on the CPU: both paths against a stable sort of the slots.
#include <gtest/gtest.h>

#include <limits>

#include "support/permute_case.h"
#include "support/run.h"

namespace gg::test {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();

// Runs the case on both paths and checks everything it wrote.
void expect_right_on_both_paths(PermuteCase&& permute) {
  for (Path path : kCpuPaths) {
    SCOPED_TRACE(to_string(path));
    for (Tensor* tensor :
         {&permute.output, &permute.row_id_map, &permute.tokens_per_expert, &permute.offsets}) {
      tensor->poison();
    }
    run_on_cpu(permute.problem(), path);
    permute.expect_right();
  }
}

TEST(Permute, GivesTheWorkedExample) {
  const std::vector<int64_t> ids = {1, 2, 0, 1, 0, 2, 1, 2};
  for (Path path : kCpuPaths) {
    PermuteCase permute(ids, 2, 1, DType::kFloat32);
    permute.input.fill({0, 1, 2, 3});
    run_on_cpu(permute.problem(), path);
    EXPECT_EQ(permute.row_id_map.integers(), (std::vector<int64_t>{2, 0, 1, 4, 5, 3, 6, 7}));
    EXPECT_EQ(permute.output.values(), (std::vector<double>{1, 2, 0, 1, 3, 0, 2, 3}));
  }
}

class PermuteOverGroupShapes : public testing::TestWithParam<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, PermuteOverGroupShapes, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(PermuteOverGroupShapes, SortsSlotsStablyByExpert) {
  for (int64_t topk : kTopKs) {
    if (GetParam().num_rows() * topk > 5000) continue;
    SCOPED_TRACE(topk);
    const std::vector<int64_t> ids = random_ids(GetParam(), topk, 7);
    expect_right_on_both_paths({ids, topk, 3, DType::kFloat32});
  }
}

TEST_P(PermuteOverGroupShapes, CountsTokensWhereTheNumberOfExpertsIsKnown) {
  const std::vector<int64_t> ids = random_ids(GetParam(), 2, 8);
  expect_right_on_both_paths({ids, 2, 8, DType::kBFloat16, -1, GetParam().num_experts()});
}

TEST_P(PermuteOverGroupShapes, TakesInt32IdsAlike) {
  const std::vector<int64_t> ids = random_ids(GetParam(), 3, 9);
  expect_right_on_both_paths({ids, 3, 5, DType::kFloat32, -1, 0, DType::kInt32});
}

TEST_P(PermuteOverGroupShapes, MovesEveryDtypeAndRowLengthUnchanged) {
  const std::vector<int64_t> ids = random_ids(GetParam(), 1, 10);
  for (DType dtype : kPermuteDTypes) {
    for (int64_t hidden : kHiddenSizes) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << hidden);
      expect_right_on_both_paths({ids, 1, hidden, dtype});
    }
  }
}

TEST_P(PermuteOverGroupShapes, DropsSlotsThatSortBeyondTheOutput) {
  const int64_t num_slots = GetParam().num_rows() * 2;
  const std::vector<int64_t> ids = random_ids(GetParam(), 2, 11);
  for (int64_t num_out : {num_slots / 2, num_slots - 1, int64_t{0}}) {
    if (num_out < 0) continue;
    SCOPED_TRACE(num_out);
    expect_right_on_both_paths({ids, 2, 8, DType::kFloat16, num_out});
  }
}

TEST_P(PermuteOverGroupShapes, FillsRowsBeyondTheLastSlotWithZeros) {
  const std::vector<int64_t> ids = random_ids(GetParam(), 2, 12);
  expect_right_on_both_paths({ids, 2, 7, DType::kFloat32, GetParam().num_rows() * 2 + 5});
}

TEST(PermuteIds, BelowZeroAreDroppedAndShiftNoGroup) {
  PermuteCase permute({1, -1, 0, -5, std::numeric_limits<int64_t>::min(), 1}, 2, 4,
                      DType::kFloat32);
  ASSERT_EQ(permute.expected_map(), (std::vector<int64_t>{1, 0, -1, -1, -1, 2}));
  expect_right_on_both_paths(std::move(permute));
}

TEST(PermuteIds, OfInt64SizeSortLast) {
  expect_right_on_both_paths(
      {{kLargest, 3, 0, kLargest, int64_t{1} << 40, 3, (int64_t{1} << 40) + 1, kLargest - 1},
       2,
       4,
       DType::kFloat32});
}

TEST(PermuteIds, AroundTheNumberOfCountedBinsSortAsIntegers) {
  expect_right_on_both_paths(
      {{4096, 4095, 4097, 0, 4096, 5000, 4095, 4098}, 1, 4, DType::kFloat32});
}

TEST(PermuteIds, OfExactlyTheNumberOfCountedBinsStayInTheWorkspace) {
  expect_right_on_both_paths({{4095, 0, 4095, 1}, 1, 4, DType::kFloat32});
  expect_right_on_both_paths({{4096, 0, 4095, 4096}, 1, 4, DType::kFloat32});
}

TEST(PermuteIds, OfALargeSentinelFillTheRowsThatRemain) {
  expect_right_on_both_paths({{kLargest, 2, kLargest, 0, 1, kLargest}, 2, 4, DType::kFloat32, 3});
}

TEST(PermuteIds, OutsideTheKnownExpertsAreDroppedAndNotCounted) {
  expect_right_on_both_paths({{0, 3, 2, -1, 4, 1, kLargest, 2}, 2, 4, DType::kFloat32, -1, 3});
  expect_right_on_both_paths({{7, 7, -1, 9}, 2, 4, DType::kFloat32, -1, 3});
}

TEST(PermuteIds, MayNameAnExpertTwiceInAToken) {
  expect_right_on_both_paths({{1, 1, 0, 0, 1, 0, 1, 1, 1}, 3, 4, DType::kFloat32});
}

TEST(PermuteIds, AreCountedBeforeTheOutputCutsThem) {
  PermuteCase permute({0, 1, 1, 0, 2, 2}, 2, 4, DType::kFloat32, 3, 3);
  ASSERT_EQ(permute.expected_tokens_per_expert(), (std::vector<int64_t>{2, 2, 2}));
  expect_right_on_both_paths(std::move(permute));
}

TEST(PermuteShapes, WithoutTokensSlotsOrFeaturesGiveWhatIsLeft) {
  expect_right_on_both_paths({{}, 4, 8, DType::kFloat32, 3, 2});
  expect_right_on_both_paths({{0, 1}, 2, 0, DType::kFloat32, -1, 2});
}

TEST(PermuteShapes, WithoutOutputRowsAndWithoutMemoryForThemFillTheMap) {
  for (Path path : kCpuPaths) {
    PermuteCase permute({0, 1}, 2, 4, DType::kFloat32, 0);
    PermuteProblem problem = permute.problem();
    problem.output.data = nullptr;
    run_on_cpu(problem, path);
    EXPECT_EQ(permute.row_id_map.integers(), (std::vector<int64_t>{-1, -1}));
  }
}

TEST(PermuteShapes, WithRowsThatLieApartReadOnlyTheRows) {
  for (Path path : kCpuPaths) {
    PermuteCase permute({1, 0, 0, 1}, 1, 5, DType::kBFloat16);
    permute.input = Tensor(DType::kBFloat16, {4, 5}, {9, 1}, /*offset=*/1);
    fill_random(permute.input, 13);
    run_on_cpu(permute.problem(), path);
    permute.expect_right();
  }
}

TEST(PermuteShapes, OfVeryLongRowsAreMovedByBothPathsAlike) {
  const std::vector<int64_t> ids = random_ids({"", {20, 0, 13}}, 2, 14);
  expect_right_on_both_paths({ids, 2, 7168, DType::kBFloat16, 50});
}

TEST(PermuteInputs, AreNotChanged) {
  PermuteCase permute(random_ids({"", {5, 6}}, 2, 15), 2, 8, DType::kFloat32);
  const std::vector<unsigned char> input = permute.input.bytes();
  const std::vector<unsigned char> indices = permute.indices.bytes();
  run_on_cpu(permute.problem(), Path::kParallel);
  EXPECT_EQ(permute.input.bytes(), input);
  EXPECT_EQ(permute.indices.bytes(), indices);
}

}  // namespace
}  // namespace gg::test
