// The gradients of unpermute on the CPU, each of them alone and together.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/run.h"
#include "support/unpermute_case.h"

namespace gg::test {
namespace {

void expect_right_on_both_paths(UnpermuteBwdCase&& backward) {
  for (Path path : kCpuPaths) {
    SCOPED_TRACE(to_string(path));
    backward.input_grad.poison();
    backward.probs_grad.poison();
    run_on_cpu(backward.problem(), path);
    EXPECT_TRUE(same_bits(backward.input_grad, backward.expected_input_grad()));
    EXPECT_TRUE(is_close(backward.probs_grad, backward.expected_probs_grad()));
    EXPECT_TRUE(backward.input_grad.guards_intact());
    EXPECT_TRUE(backward.probs_grad.guards_intact());
  }
}

class UnpermuteBwdOverGroupShapes : public testing::TestWithParam<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, UnpermuteBwdOverGroupShapes, testing::ValuesIn(group_shapes()),
                         shape_name);

TEST_P(UnpermuteBwdOverGroupShapes, GathersWeightedGradientsAndRowDotProducts) {
  for (DType dtype : kPermuteDTypes) {
    for (bool has_probs : {false, true}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << (has_probs ? " weighted" : ""));
      expect_right_on_both_paths({GetParam(), 2, 9, dtype, has_probs});
    }
  }
}

TEST_P(UnpermuteBwdOverGroupShapes, GivesZerosToRowsThatNoSlotNames) {
  expect_right_on_both_paths({GetParam(), 3, 7, DType::kBFloat16, true, /*extra_rows=*/6});
}

TEST_P(UnpermuteBwdOverGroupShapes, GivesTheInputsGradientAlone) {
  UnpermuteBwdCase backward(GetParam(), 2, 8, DType::kFloat32, true);
  UnpermuteBwdProblem problem = backward.problem();
  problem.probs_grad = TensorView{};
  problem.input = TensorView{};
  for (Path path : kCpuPaths) {
    backward.input_grad.poison();
    run_on_cpu(problem, path);
    EXPECT_TRUE(same_bits(backward.input_grad, backward.expected_input_grad()));
    EXPECT_TRUE(same_bits(backward.probs_grad, backward.probs_grad.like())) << "left alone";
  }
}

TEST_P(UnpermuteBwdOverGroupShapes, GivesTheProbsGradientAlone) {
  UnpermuteBwdCase backward(GetParam(), 2, 8, DType::kFloat32, true);
  UnpermuteBwdProblem problem = backward.problem();
  problem.input_grad = TensorView{};
  for (Path path : kCpuPaths) {
    backward.probs_grad.poison();
    run_on_cpu(problem, path);
    EXPECT_TRUE(is_close(backward.probs_grad, backward.expected_probs_grad()));
    EXPECT_TRUE(same_bits(backward.input_grad, backward.input_grad.like())) << "left alone";
  }
}

TEST(UnpermuteBwdDrops, HaveNoGradientAndAGradientOfZero) {
  UnpermuteBwdCase backward({"", {9, 4}}, 2, 8, DType::kFloat32, true);
  for (int64_t entry : {0, 6, 13, 19}) backward.row_id_map.set_integer(entry, -1);
  backward.row_id_map.set_integer(7, backward.input.size(0));
  const Expected expected = backward.expected_probs_grad();
  ASSERT_EQ(expected.values[0], 0.0);
  expect_right_on_both_paths(std::move(backward));
}

TEST(UnpermuteBwdDrops, KeepTheirGradientOfZeroWhateverTheirProb) {
  for (double prob :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    UnpermuteBwdCase backward({"", {9, 4}}, 2, 8, DType::kFloat32, true);
    backward.row_id_map.set_integer(4, -1);
    backward.probs.set(8, prob);
    run_on_cpu(backward.problem(), Path::kParallel);
    EXPECT_EQ(backward.probs_grad.get(8), 0.0);
    for (double value : backward.input_grad.values()) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(UnpermuteBwdShapes, WithGradientRowsThatLieApartReadOnlyTheRows) {
  UnpermuteBwdCase backward({"", {9, 4}}, 2, 5, DType::kBFloat16, true);
  backward.output_grad = Tensor(DType::kBFloat16, {13, 5}, {8, 1}, /*offset=*/1);
  backward.input = Tensor(DType::kBFloat16, {26, 5}, {7, 1});
  fill_random(backward.output_grad, 37);
  fill_random(backward.input, 38);
  expect_right_on_both_paths(std::move(backward));
}

TEST(UnpermuteBwdShapes, WithAGradientThatIsOneRowForAllTokensRepeatIt) {
  UnpermuteBwdCase backward({"", {9, 4}}, 2, 5, DType::kFloat32, true);
  backward.output_grad = Tensor(DType::kFloat32, {13, 5}, {0, 1});
  fill_random(backward.output_grad, 39);
  expect_right_on_both_paths(std::move(backward));
}

TEST(UnpermuteBwdShapes, WithoutTokensOrFeaturesGiveWhatIsLeft) {
  expect_right_on_both_paths({{"", {}}, 2, 8, DType::kFloat32, true, 3});
  expect_right_on_both_paths({{"", {4}}, 2, 0, DType::kFloat32, true});
}

TEST(UnpermuteBwdShapes, OfFloat64KeepTheirPrecision) {
  UnpermuteBwdCase backward({"", {9, 4}}, 2, 33, DType::kFloat64, false);
  backward.probs_grad = Tensor(DType::kFloat64, {13, 2});
  run_on_cpu(backward.problem(), Path::kParallel);
  Expected expected = backward.expected_probs_grad();
  for (double& tolerance : expected.tolerances) tolerance *= 0x1p-29;
  EXPECT_TRUE(is_close(backward.probs_grad, expected));
}

}  // namespace
}  // namespace gg::test
