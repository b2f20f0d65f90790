// sinkhorn on the CPU against the formula of the header, computed in double
// without any rescaling.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/run.h"
#include "support/sinkhorn_case.h"

namespace gg::test {
namespace {

TEST(Sinkhorn, EqualsTheFormulaForAnyTokensAndExperts) {
  const int64_t shapes[][2] = {{1, 1}, {1, 8}, {8, 1}, {3, 7}, {64, 8}, {33, 129}, {5, 1024}};
  for (const auto& [num_tokens, num_experts] : shapes) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
      for (Path path : kCpuPaths) {
        SCOPED_TRACE(testing::Message() << num_tokens << " x " << num_experts << " "
                                        << to_string(dtype) << " " << to_string(path));
        const SinkhornCase sinkhorn(num_tokens, num_experts, dtype);
        run_on_cpu(sinkhorn.problem(), path);
        sinkhorn.expect_right(/*relative_error=*/1e-10);
      }
    }
  }
}

TEST(Sinkhorn, GivesBothPathsTheSameBits) {
  SinkhornCase sinkhorn(300, 64, DType::kFloat32);
  run_on_cpu(sinkhorn.problem(), Path::kReference);
  const std::vector<unsigned char> reference = sinkhorn.output.bytes();
  sinkhorn.output.poison();
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  EXPECT_EQ(sinkhorn.output.bytes(), reference);
}

TEST(Sinkhorn, BalancesTokensAndExperts) {
  SinkhornCase sinkhorn(40, 5, DType::kFloat64);
  sinkhorn.tolerance = 1e-9;
  sinkhorn.max_iterations = 1000;
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  for (int64_t t = 0; t < 40; ++t) {
    double row = 0;
    for (int64_t e = 0; e < 5; ++e) row += sinkhorn.output.get(t * 5 + e);
    EXPECT_NEAR(row, 1.0 / 40, 1e-6);
  }
  for (int64_t e = 0; e < 5; ++e) {
    double column = 0;
    for (int64_t t = 0; t < 40; ++t) column += sinkhorn.output.get(t * 5 + e);
    EXPECT_NEAR(column, 1.0 / 5, 1e-6);
  }
}

TEST(Sinkhorn, LeavesItsInputAlone) {
  const SinkhornCase sinkhorn(9, 4, DType::kFloat32);
  const std::vector<unsigned char> before = sinkhorn.cost.bytes();
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  EXPECT_EQ(sinkhorn.cost.bytes(), before);
}

TEST(SinkhornIterations, EndWhenTheChangeIsWithinTheTolerance) {
  SinkhornCase sinkhorn(64, 8, DType::kFloat32);
  for (double tolerance : {1e-1, 1e-3, 1e-5}) {
    sinkhorn.tolerance = tolerance;
    run_on_cpu(sinkhorn.problem(), Path::kParallel);
    EXPECT_LE(sinkhorn.error.get(0), tolerance);
    sinkhorn.expect_right(1e-10);
  }
}

TEST(SinkhornIterations, EndAtTheCapWhereTheToleranceIsZeroOrLess) {
  for (double tolerance : {0.0, -1.0}) {
    SinkhornCase sinkhorn(6, 3, DType::kFloat32);
    sinkhorn.tolerance = tolerance;
    sinkhorn.max_iterations = 17;
    run_on_cpu(sinkhorn.problem(), Path::kParallel);
    EXPECT_EQ(sinkhorn.iterations.get_integer(0), 17);
    sinkhorn.expect_right(1e-10);
  }
}

TEST(SinkhornIterations, AreOneWhereTheToleranceIsInfiniteOrNoFloat) {
  for (double tolerance : {std::numeric_limits<double>::infinity(), 1e300, 3.41e38}) {
    SinkhornCase sinkhorn(6, 3, DType::kFloat32);
    sinkhorn.tolerance = tolerance;
    run_on_cpu(sinkhorn.problem(), Path::kParallel);
    EXPECT_EQ(sinkhorn.iterations.get_integer(0), 1);
    sinkhorn.expect_right(1e-10);
  }
}

TEST(SinkhornIterations, GoOnToTheCapEvenWhereNothingChangesAnyMore) {
  SinkhornCase sinkhorn(4, 4, DType::kFloat32);
  const double masked = -std::numeric_limits<double>::infinity();  // d1 stays as it is
  sinkhorn.cost.fill(std::vector<double>(16, masked));
  sinkhorn.tolerance = 0;
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  EXPECT_EQ(sinkhorn.error.get(0), 0.0);
  EXPECT_EQ(sinkhorn.iterations.get_integer(0), 100);
}

TEST(SinkhornIterations, EndAtTheCapWithSkewedLogitsThatNeverConverge) {
  SinkhornCase sinkhorn(16, 4, DType::kFloat32);
  for (int64_t t = 0; t < 16; ++t) sinkhorn.cost.set(t * 4 + t % 2, 60);
  sinkhorn.tolerance = 1e-12;
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  EXPECT_EQ(sinkhorn.iterations.get_integer(0), 100) << "the documented cap";
  sinkhorn.expect_right(1e-6);
}

TEST(SinkhornLogits, ThatAreHugeDoNotOverflow) {
  SinkhornCase sinkhorn(8, 4, DType::kFloat32);
  for (int64_t i = 0; i < 32; ++i) sinkhorn.cost.set(i, i % 3 == 0 ? 3e4 : -3e4);
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  for (double value : sinkhorn.output.values()) EXPECT_TRUE(std::isfinite(value));
}

TEST(SinkhornLogits, ShiftedUpAllTogetherGiveTheSameResult) {
  SinkhornCase sinkhorn(32, 8, DType::kFloat64);
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  const std::vector<double> unshifted = sinkhorn.output.values();
  for (double shift : {20.0, 600.0, 5000.0}) {
    SinkhornCase shifted(32, 8, DType::kFloat64);
    for (int64_t i = 0; i < 256; ++i) shifted.cost.set(i, sinkhorn.cost.get(i) + shift);
    run_on_cpu(shifted.problem(), Path::kParallel);
    for (int64_t i = 0; i < 256; ++i) {
      EXPECT_NEAR(shifted.output.get(i), unshifted[static_cast<size_t>(i)], 1e-7) << shift;
    }
  }
}

TEST(SinkhornLogits, OfMinusInfinityMaskAnExpertOut) {
  SinkhornCase sinkhorn(6, 3, DType::kFloat32);
  const double minus_infinity = -std::numeric_limits<double>::infinity();
  for (int64_t i : {1, 4, 5}) sinkhorn.cost.set(i, minus_infinity);
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  for (int64_t i : {1, 4, 5}) EXPECT_EQ(sinkhorn.output.get(i), 0.0);
  sinkhorn.expect_right(1e-10);
}

TEST(SinkhornLogits, OfATokenThatAreAllMinusInfinityGiveItZeros) {
  SinkhornCase sinkhorn(6, 3, DType::kFloat32);
  for (int64_t i : {3, 4, 5}) sinkhorn.cost.set(i, -std::numeric_limits<double>::infinity());
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  for (int64_t i : {3, 4, 5}) EXPECT_EQ(sinkhorn.output.get(i), 0.0);
  for (double value : sinkhorn.output.values()) EXPECT_TRUE(std::isfinite(value));
}

TEST(SinkhornLogits, FarBelowZeroKeepTheEpsilonOfTheFormula) {
  SinkhornCase sinkhorn(12, 4, DType::kFloat64);
  for (int64_t i = 0; i < 48; ++i) sinkhorn.cost.set(i, -15 + 0.1 * static_cast<double>(i % 7));
  run_on_cpu(sinkhorn.problem(), Path::kParallel);
  sinkhorn.expect_right(1e-9);
}

TEST(SinkhornShapes, WithoutTokensOrExpertsDoNoIteration) {
  for (const auto& [num_tokens, num_experts] : {std::pair{0, 4}, std::pair{4, 0}}) {
    const SinkhornCase sinkhorn(num_tokens, num_experts, DType::kFloat32);
    run_on_cpu(sinkhorn.problem(), Path::kParallel);
    EXPECT_EQ(sinkhorn.iterations.get_integer(0), 0);
    EXPECT_TRUE(sinkhorn.output.guards_intact());
  }
}

TEST(SinkhornShapes, NeedNoIterationCountOrError) {
  const SinkhornCase sinkhorn(9, 4, DType::kFloat32);
  SinkhornProblem problem = sinkhorn.problem();
  problem.iterations = TensorView{};
  problem.error = TensorView{};
  EXPECT_NO_THROW(run_on_cpu(problem, Path::kParallel));
}

}  // namespace
}  // namespace gg::test
