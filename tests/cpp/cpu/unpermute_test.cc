// unpermute on the CPU: sums in fp32 in k order with one rounding, drops, fp8.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/permute_case.h"
#include "support/run.h"
#include "support/unpermute_case.h"

namespace gg::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

void expect_right_on_both_paths(UnpermuteCase&& unpermute) {
  for (Path path : kCpuPaths) {
    SCOPED_TRACE(to_string(path));
    unpermute.output.poison();
    run_on_cpu(unpermute.problem(), path);
    EXPECT_TRUE(same_bits(unpermute.output, unpermute.expected()));
    EXPECT_TRUE(unpermute.output.guards_intact());
  }
}

class UnpermuteOverGroupShapes : public testing::TestWithParam<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, UnpermuteOverGroupShapes, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(UnpermuteOverGroupShapes, SumsTheRowsOfEachTokenInKOrderWithOneRounding) {
  for (int64_t topk : kTopKs) {
    if (GetParam().num_rows() * topk > 5000) continue;
    for (bool has_probs : {false, true}) {
      SCOPED_TRACE(testing::Message() << "topK " << topk << (has_probs ? " weighted" : ""));
      expect_right_on_both_paths({GetParam(), topk, 3, DType::kBFloat16, has_probs});
    }
  }
}

TEST_P(UnpermuteOverGroupShapes, TakesEveryDtypeAndRowLength) {
  for (DType dtype : kPermuteDTypes) {
    for (int64_t hidden : kHiddenSizes) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << hidden);
      expect_right_on_both_paths({GetParam(), 2, hidden, dtype, true});
    }
  }
}

TEST_P(UnpermuteOverGroupShapes, AddsAResidualBeforeTheRounding) {
  for (DType dtype : kPermuteDTypes) {
    for (int64_t hidden : {1, 300}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << hidden);
      UnpermuteCase unpermute(GetParam(), 2, hidden, dtype, true);
      unpermute.has_residual = true;
      expect_right_on_both_paths(std::move(unpermute));
    }
  }
}

TEST_P(UnpermuteOverGroupShapes, TakesEveryDtypeOfProbs) {
  for (DType dtype : kGemmDTypes) {
    SCOPED_TRACE(to_string(dtype));
    expect_right_on_both_paths({GetParam(), 3, 8, DType::kFloat16, true, dtype});
  }
}

TEST_P(UnpermuteOverGroupShapes, UndoesPermuteWhereTheProbsSumToOne) {
  const int64_t topk = 4;
  PermuteCase permute(random_ids(GetParam(), topk, 20), topk, 8, DType::kFloat32);
  run_on_cpu(permute.problem(), Path::kParallel);
  const Tensor merged(DType::kFloat32, {permute.input.size(0), 8});
  Tensor probs(DType::kFloat32, {permute.input.size(0), topk});
  probs.fill(std::vector<double>(static_cast<size_t>(probs.num_elements()), 0.25));
  const UnpermuteProblem problem{.input = permute.output.view(),
                                 .row_id_map = permute.row_id_map.view(),
                                 .probs = probs.view(),
                                 .output = merged.view()};
  run_on_cpu(problem, Path::kParallel);
  EXPECT_TRUE(same_bits(merged, permute.input)) << "quarters of one number add up exactly";
}

TEST(UnpermuteMaps, MayBeInt64) {
  UnpermuteCase unpermute({"", {9, 4}}, 2, 8, DType::kFloat32, true);
  Tensor wide(DType::kInt64, {2, 13});
  wide.fill_integers(unpermute.row_id_map.integers());
  unpermute.row_id_map = std::move(wide);
  expect_right_on_both_paths(std::move(unpermute));
}

TEST(UnpermuteMaps, NameDroppedSlotsThatContributeNothing) {
  UnpermuteCase unpermute({"", {9, 4}}, 2, 8, DType::kFloat32, true);
  for (int64_t slot : {0, 3, 13, 20}) unpermute.row_id_map.set_integer(slot, -1);
  unpermute.row_id_map.set_integer(5, -1);  // both slots of token 5
  unpermute.row_id_map.set_integer(18, -1);
  expect_right_on_both_paths(std::move(unpermute));
}

TEST(UnpermuteMaps, ThatPointOutsideTheRowsAreDropsAndReadNothing) {
  UnpermuteCase unpermute({"", {9, 4}}, 2, 8, DType::kFloat32, true);
  const int64_t num_rows = unpermute.input.size(0);
  unpermute.row_id_map.set_integer(0, num_rows);
  unpermute.row_id_map.set_integer(1, std::numeric_limits<int32_t>::max());
  unpermute.row_id_map.set_integer(2, std::numeric_limits<int32_t>::min());
  expect_right_on_both_paths(std::move(unpermute));
}

TEST(UnpermuteProbs, OfDroppedSlotsDoNotMatter) {
  for (double prob : {kNan, kInfinity, -kInfinity}) {
    UnpermuteCase unpermute({"", {9, 4}}, 2, 8, DType::kFloat32, true);
    unpermute.row_id_map.set_integer(4, -1);  // slot k = 0 of token 4
    unpermute.probs.set(8, prob);
    for (Path path : kCpuPaths) {
      run_on_cpu(unpermute.problem(), path);
      EXPECT_TRUE(same_bits(unpermute.output, unpermute.expected()));
      for (double value : unpermute.output.values()) EXPECT_TRUE(std::isfinite(value));
    }
  }
}

// One token whose two rows hold `first` and `second`; the merged value.
double merged(DType dtype, double first, double second) {
  Tensor input(dtype, {2, 1});
  input.fill({first, second});
  Tensor map(DType::kInt32, {2, 1});
  map.fill_integers({0, 1});
  const Tensor output(dtype, {1, 1});
  run_on_cpu(
      UnpermuteProblem{.input = input.view(), .row_id_map = map.view(), .output = output.view()},
      Path::kParallel);
  return output.get(0);
}

TEST(UnpermuteFloat8, SaturatesAsE4M3) {
  EXPECT_EQ(merged(DType::kFloat8E4M3, 448, 448), 448);
  EXPECT_EQ(merged(DType::kFloat8E4M3, -448, -32), -448);
  EXPECT_EQ(merged(DType::kFloat8E4M3, 192, 48), 240);
}

TEST(UnpermuteFloat8, OverflowsToInfinityAsE5M2) {
  EXPECT_EQ(merged(DType::kFloat8E5M2, 57344, 57344), kInfinity);
  EXPECT_EQ(merged(DType::kFloat8E5M2, -57344, -8192), -kInfinity);
  EXPECT_EQ(merged(DType::kFloat8E5M2, 40960, 8192), 49152);
}

TEST(UnpermuteSums, AreKeptInFp32AndNotInTheElementsType) {
  // In bf16 each of the 256 ones would be lost against 256.
  const int64_t topk = 257;
  Tensor input(DType::kBFloat16, {topk, 1});
  input.fill(std::vector<double>(topk, 1.0));
  input.set(0, 256);
  Tensor map(DType::kInt32, {topk, 1});
  for (int64_t k = 0; k < topk; ++k) map.set_integer(k, k);
  const Tensor output(DType::kBFloat16, {1, 1});
  run_on_cpu(
      UnpermuteProblem{.input = input.view(), .row_id_map = map.view(), .output = output.view()},
      Path::kReference);
  EXPECT_EQ(output.get(0), 512);
}

TEST(UnpermuteShapes, WithoutTokensRowsOrFeaturesGiveWhatIsLeft) {
  expect_right_on_both_paths({{"", {}}, 3, 8, DType::kFloat32, true});
  expect_right_on_both_paths({{"", {4}}, 3, 0, DType::kFloat32, true});
  UnpermuteCase no_rows({"", {4}}, 2, 8, DType::kFloat32, true);
  no_rows.input = Tensor(DType::kFloat32, {0, 8});
  expect_right_on_both_paths(std::move(no_rows));
}

TEST(UnpermuteShapes, WithoutSlotsGiveZeros) {
  UnpermuteCase unpermute({"", {4}}, 1, 8, DType::kFloat32, false);
  unpermute.row_id_map = Tensor(DType::kInt32, {0, 4});
  run_on_cpu(unpermute.problem(), Path::kParallel);
  EXPECT_TRUE(all_zero(unpermute.output));
}

TEST(UnpermuteShapes, WithInputRowsThatLieApartReadOnlyTheRows) {
  UnpermuteCase unpermute({"", {9, 4}}, 2, 300, DType::kFloat16, true);
  unpermute.input = Tensor(DType::kFloat16, {26, 300}, {311, 1}, /*offset=*/1);
  fill_random(unpermute.input, 21);
  expect_right_on_both_paths(std::move(unpermute));
}

}  // namespace
}  // namespace gg::test
