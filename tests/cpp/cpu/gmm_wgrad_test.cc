// gmm_wgrad on the CPU: both paths against double, element by element, with
// bounds that grow as the square root of a group's rows.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/gmm_case.h"
#include "support/run.h"

namespace gg::test {
namespace {

// Runs the case on both paths from the same contents of out.
void expect_right_on_both_paths(WgradCase&& wgrad) {
  const Expected expected = wgrad.expected();
  for (Path path : kCpuPaths) {
    SCOPED_TRACE(to_string(path));
    wgrad.out.poison();
    if (wgrad.accumulate) wgrad.out.fill(wgrad.previous);
    run_on_cpu(wgrad.problem(), path);
    EXPECT_TRUE(is_close(wgrad.out, expected));
    EXPECT_TRUE(wgrad.out.guards_intact());
  }
}

class WgradOverGroupShapes : public testing::TestWithParam<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, WgradOverGroupShapes, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(WgradOverGroupShapes, SumsOuterProductsOverEachGroupsRows) {
  for (DType dtype : kGemmDTypes) {
    for (const MatrixShape& matrix : kMatrixShapes) {
      SCOPED_TRACE(testing::Message()
                   << to_string(dtype) << " K=" << matrix.k << " N=" << matrix.n);
      expect_right_on_both_paths({GetParam(), matrix, dtype, dtype});
    }
  }
}

TEST_P(WgradOverGroupShapes, AddsToWhatIsThereWhenAccumulating) {
  for (DType dtype : kGemmDTypes) {
    for (DType result : {dtype, DType::kFloat32}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " into " << to_string(result));
      expect_right_on_both_paths({GetParam(), {16, 24}, dtype, result, /*accumulate=*/true});
    }
  }
}

TEST_P(WgradOverGroupShapes, GivesEmptyGroupsExactZerosOrLeavesThemAlone) {
  for (bool accumulate : {false, true}) {
    for (Path path : kCpuPaths) {
      WgradCase wgrad(GetParam(), {3, 5}, DType::kBFloat16, DType::kFloat32, accumulate);
      run_on_cpu(wgrad.problem(), path);
      for (int64_t i = 0; i < wgrad.out.num_elements(); ++i) {
        if (GetParam().sizes[static_cast<size_t>(i / 15)] > 0) continue;
        ASSERT_EQ(wgrad.out.get(i), accumulate ? wgrad.previous[static_cast<size_t>(i)] : 0.0);
      }
    }
  }
}

TEST_P(WgradOverGroupShapes, IgnoresRowsPastTheLastGroup) {
  WgradCase wgrad(GetParam(), {3, 5}, DType::kFloat32, DType::kFloat32, false, /*extra_rows=*/9);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int64_t i = GetParam().num_rows() * 5; i < wgrad.dy.num_elements(); ++i) {
    wgrad.dy.set(i, nan);
  }
  expect_right_on_both_paths(std::move(wgrad));
}

TEST_P(WgradOverGroupShapes, TakesSizesAndEndsOfBothIntegerTypes) {
  for (const SizesKind& kind : kSizesKinds) {
    SCOPED_TRACE(testing::Message() << to_string(kind.dtype) << (kind.cumulative ? " ends" : ""));
    expect_right_on_both_paths(
        {GetParam(), {7, 2}, DType::kFloat32, DType::kFloat32, false, 2, Layout::kPlain, kind});
  }
}

TEST_P(WgradOverGroupShapes, TakesAnyStridesAndAlignment) {
  for (Layout layout : kLayouts) {
    for (bool accumulate : {false, true}) {
      SCOPED_TRACE(testing::Message() << "layout " << static_cast<int>(layout));
      expect_right_on_both_paths(
          {GetParam(), {16, 24}, DType::kBFloat16, DType::kFloat32, accumulate, 3, layout});
    }
  }
}

TEST(WgradAccumulation, LeavesEmptyGroupsTheirBitsEvenNan) {
  for (Path path : kCpuPaths) {
    WgradCase wgrad({"", {2, 0, 3}}, {4, 5}, DType::kFloat32, DType::kFloat32, true);
    for (int64_t i = 20; i < 40; ++i) wgrad.out.set(i, std::numeric_limits<double>::quiet_NaN());
    const std::vector<unsigned char> before = wgrad.out.bytes();
    run_on_cpu(wgrad.problem(), path);
    const std::vector<unsigned char> after = wgrad.out.bytes();
    EXPECT_TRUE(std::equal(before.begin() + 80, before.begin() + 160, after.begin() + 80));
    EXPECT_FALSE(std::equal(before.begin(), before.begin() + 80, after.begin()));
  }
}

TEST(WgradAccumulation, InFloat32LosesNothingOfManySmallSteps) {
  // Each step adds 2^-10, which float16 could not add to 8.
  WgradCase wgrad({"", {1}}, {1, 1}, DType::kFloat16, DType::kFloat32, true);
  wgrad.dy.fill({0x1p-10});
  wgrad.tokens.fill({1});
  wgrad.out.fill({8});
  for (int step = 0; step < 64; ++step) run_on_cpu(wgrad.problem(), Path::kParallel);
  EXPECT_EQ(wgrad.out.get(0), 8 + 64 * 0x1p-10);
}

TEST(WgradShapes, OfOneVeryLongGroupKeepTheirBound) {
  expect_right_on_both_paths({{"", {7168}}, {3, 2}, DType::kBFloat16, DType::kFloat32});
}

TEST(WgradShapes, WithoutFeaturesWriteNothing) {
  expect_right_on_both_paths({{"", {3, 4}}, {0, 5}, DType::kFloat32, DType::kFloat32});
  expect_right_on_both_paths({{"", {3, 4}}, {5, 0}, DType::kFloat32, DType::kFloat32});
  expect_right_on_both_paths({{"", {}}, {5, 4}, DType::kFloat32, DType::kFloat32, false, 3});
}

TEST(WgradShapes, OfFloat64KeepTheirPrecision) {
  expect_right_on_both_paths({{"", {50, 0, 9}}, {6, 4}, DType::kFloat64, DType::kFloat64});
}

TEST(WgradOut, MayBeWrittenTransposed) {
  WgradCase wgrad({"", {5, 6}}, {4, 3}, DType::kFloat32, DType::kFloat32);
  Tensor stored(DType::kFloat32, {2, 4, 3});  // [E, K, N], as gmm without trans_b keeps weights
  GmmWgradProblem problem = wgrad.problem();
  problem.out = transposed(stored.view());
  run_on_cpu(problem, Path::kParallel);
  run_on_cpu(wgrad.problem(), Path::kParallel);
  for (int64_t i = 0; i < 24; ++i) {
    const int64_t e = i / 12;
    const int64_t n = i % 12 / 4;
    const int64_t k = i % 4;
    EXPECT_EQ(stored.get((e * 4 + k) * 3 + n), wgrad.out.get(i));
  }
}

}  // namespace
}  // namespace gg::test
