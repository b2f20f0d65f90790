// gmm on the CPU: both paths against double, element by element, with bounds
// that grow as sqrt(K).
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/gmm_case.h"
#include "support/run.h"

namespace gg::test {
namespace {

void expect_right_on_both_paths(GmmCase&& gmm) {
  const Expected expected = gmm.expected();
  for (Path path : kCpuPaths) {
    SCOPED_TRACE(to_string(path));
    gmm.out.poison();
    run_on_cpu(gmm.problem(), path);
    EXPECT_TRUE(is_close(gmm.out, expected));
    EXPECT_TRUE(gmm.out.guards_intact());
  }
}

class GmmOverGroupShapes : public testing::TestWithParam<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, GmmOverGroupShapes, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(GmmOverGroupShapes, MultipliesEachGroupsRowsByItsMatrix) {
  for (DType dtype : kGemmDTypes) {
    for (const MatrixShape& matrix : kMatrixShapes) {
      SCOPED_TRACE(testing::Message()
                   << to_string(dtype) << " K=" << matrix.k << " N=" << matrix.n);
      expect_right_on_both_paths({GetParam(), matrix, dtype, dtype});
    }
  }
}

TEST_P(GmmOverGroupShapes, WritesFloat32WhereAsked) {
  for (DType dtype : kGemmDTypes) {
    SCOPED_TRACE(to_string(dtype));
    expect_right_on_both_paths({GetParam(), {16, 24}, dtype, DType::kFloat32});
  }
}

TEST_P(GmmOverGroupShapes, GivesZerosToRowsPastTheLastGroup) {
  GmmCase gmm(GetParam(), {7, 2}, DType::kBFloat16, DType::kBFloat16, /*extra_rows=*/70);
  for (Path path : kCpuPaths) {
    gmm.out.poison();
    run_on_cpu(gmm.problem(), path);
    for (int64_t i = GetParam().num_rows() * 2; i < gmm.out.num_elements(); ++i) {
      ASSERT_EQ(gmm.out.get(i), 0.0);
    }
  }
  expect_right_on_both_paths(std::move(gmm));
}

TEST_P(GmmOverGroupShapes, TakesSizesAndEndsOfBothIntegerTypes) {
  for (const SizesKind& kind : kSizesKinds) {
    SCOPED_TRACE(testing::Message() << to_string(kind.dtype) << (kind.cumulative ? " ends" : ""));
    expect_right_on_both_paths(
        {GetParam(), {3, 5}, DType::kFloat32, DType::kFloat32, 2, Layout::kPlain, kind});
  }
}

TEST_P(GmmOverGroupShapes, TakesAnyStridesAndAlignment) {
  for (Layout layout : kLayouts) {
    SCOPED_TRACE(static_cast<int>(layout));
    expect_right_on_both_paths({GetParam(), {16, 24}, DType::kFloat16, DType::kFloat16, 3, layout});
  }
}

TEST_P(GmmOverGroupShapes, RepeatsItsBits) {
  GmmCase gmm(GetParam(), {63, 65}, DType::kFloat32, DType::kFloat32);
  run_on_cpu(gmm.problem(), Path::kParallel);
  const std::vector<unsigned char> first = gmm.out.bytes();
  gmm.out.poison();
  run_on_cpu(gmm.problem(), Path::kParallel);
  EXPECT_EQ(gmm.out.bytes(), first);
}

TEST(GmmShapes, WithVeryLongRowsKeepTheirBound) {
  for (const MatrixShape& matrix : kLongMatrixShapes) {
    expect_right_on_both_paths({{"", {3, 0, 17}}, matrix, DType::kBFloat16, DType::kFloat32});
  }
}

TEST(GmmShapes, WithoutAReductionDimensionGiveZeros) {
  GmmCase gmm({"", {3, 0, 4}}, {0, 5}, DType::kFloat32, DType::kFloat32, 2);
  for (Path path : kCpuPaths) {
    gmm.out.poison();
    run_on_cpu(gmm.problem(), path);
    EXPECT_TRUE(all_zero(gmm.out));
  }
}

TEST(GmmShapes, WithoutFeaturesOrRowsWriteNothing) {
  expect_right_on_both_paths({{"", {3, 4}}, {5, 0}, DType::kFloat32, DType::kFloat32});
  expect_right_on_both_paths({{"", {0, 0}}, {5, 3}, DType::kFloat32, DType::kFloat32});
}

TEST(GmmShapes, WithoutExpertsGiveZeros) {
  GmmCase gmm({"", {}}, {4, 5}, DType::kFloat32, DType::kFloat32, /*extra_rows=*/6);
  GmmProblem problem = gmm.problem();
  problem.weights.data = nullptr;
  problem.groups.data = nullptr;
  for (Path path : kCpuPaths) {
    gmm.out.poison();
    run_on_cpu(problem, path);
    EXPECT_TRUE(all_zero(gmm.out));
  }
}

TEST(GmmShapes, OfFloat64KeepTheirPrecision) {
  expect_right_on_both_paths({{"", {5, 0, 9}}, {63, 4}, DType::kFloat64, DType::kFloat64});
}

TEST(GmmDgrad, IsTheSameCallOnTransposedWeights) {
  // dy [T, N] by weights [E, N, K] seen as [E, K, N].
  const GmmCase stored({"", {4, 0, 6}}, {5, 3}, DType::kFloat32, DType::kFloat32);
  GmmCase dgrad({"", {4, 0, 6}}, {3, 5}, DType::kFloat32, DType::kFloat32);
  for (int64_t e = 0; e < 3; ++e) {
    for (int64_t n = 0; n < 3; ++n) {
      for (int64_t k = 0; k < 5; ++k) {
        dgrad.weights.set((e * 5 + k) * 3 + n, stored.weights.get((e * 3 + n) * 5 + k));
      }
    }
  }
  GmmProblem problem = dgrad.problem();
  problem.weights = transposed(stored.weights.view());
  run_on_cpu(problem, Path::kParallel);
  EXPECT_TRUE(is_close(dgrad.out, dgrad.expected()));
}

TEST(GmmGroups, KeepTheirBitsWhenAnotherHoldsNanOrInfinity) {
  for (double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    GmmCase gmm({"", {3, 4, 5}}, {7, 2}, DType::kFloat32, DType::kFloat32, 2);
    run_on_cpu(gmm.problem(), Path::kParallel);
    const std::vector<double> clean = gmm.out.values();
    for (int64_t i = 3 * 7; i < 7 * 7; ++i) gmm.tokens.set(i, bad);     // all rows of group 1
    for (int64_t i = 12 * 7; i < 14 * 7; ++i) gmm.tokens.set(i, bad);   // rows of no group
    for (int64_t i = 1 * 14; i < 2 * 14; ++i) gmm.weights.set(i, bad);  // and its matrix
    for (Path path : kCpuPaths) {
      run_on_cpu(gmm.problem(), path);
      for (int64_t i = 0; i < gmm.out.num_elements(); ++i) {
        const bool is_bad_group = i / 2 >= 3 && i / 2 < 7;
        EXPECT_EQ(is_bad_group, !std::isfinite(gmm.out.get(i)));
        if (is_bad_group) continue;
        EXPECT_EQ(gmm.out.get(i), clean[static_cast<size_t>(i)]);
      }
    }
  }
}

TEST(GmmSums, AreKeptInFp32AndNotInTheElementsType) {
  // In fp16 each of the 2048 ones would be lost against 2048.
  GmmCase gmm({"", {1}}, {2049, 1}, DType::kFloat16, DType::kFloat16);
  gmm.tokens.fill(std::vector<double>(2049, 1.0));
  gmm.weights.fill(std::vector<double>(2049, 1.0));
  gmm.weights.set(0, 2048);
  run_on_cpu(gmm.problem(), Path::kReference);
  EXPECT_EQ(gmm.out.get(0), 4096);
}

TEST(GmmOut, InFloat16OverflowsToInfinityInsteadOfWrapping) {
  GmmCase gmm({"", {1}}, {2, 1}, DType::kFloat16, DType::kFloat16);
  gmm.tokens.fill({60000, 60000});
  gmm.weights.fill({1, 1});
  run_on_cpu(gmm.problem(), Path::kParallel);
  EXPECT_EQ(gmm.out.get(0), std::numeric_limits<double>::infinity());
}

TEST(GmmInputs, AreNotChanged) {
  const GmmCase gmm({"", {3, 4}}, {7, 5}, DType::kFloat32, DType::kFloat32);
  const std::vector<unsigned char> tokens = gmm.tokens.bytes();
  const std::vector<unsigned char> weights = gmm.weights.bytes();
  run_on_cpu(gmm.problem(), Path::kParallel);
  EXPECT_EQ(gmm.tokens.bytes(), tokens);
  EXPECT_EQ(gmm.weights.bytes(), weights);
}

}  // namespace
}  // namespace gg::test
