// sinkhorn on a GPU against the formula in double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cuda/support/device.h"
#include "support/sinkhorn_case.h"

namespace gg::test {
namespace {

class CudaSinkhorn : public OnDevice {
 protected:
  // Runs the case on the device and leaves what it wrote in the case.
  static void run_case(SinkhornCase& sinkhorn) {
    DeviceTensor cost(sinkhorn.cost), output(sinkhorn.output), iterations(sinkhorn.iterations),
        error(sinkhorn.error);
    SinkhornProblem problem = sinkhorn.problem();
    problem.cost = cost.view();
    problem.output = output.view();
    problem.iterations = iterations.view();
    problem.error = error.view();
    run_on_device(problem);
    sinkhorn.output.fill(output.download().values());
    sinkhorn.iterations.fill_integers(iterations.download().integers());
    sinkhorn.error.fill(error.download().values());
    EXPECT_TRUE(same_bits(cost.download(), sinkhorn.cost)) << "the input is left alone";
  }
};

TEST_F(CudaSinkhorn, EqualsTheFormulaForAnyTokensAndExperts) {
  const int64_t shapes[][2] = {{1, 1},    {1, 8},    {8, 1},     {3, 7},     {64, 8},
                               {33, 129}, {5, 1025}, {1000, 64}, {20000, 8}, {2, 4096}};
  for (const auto& [num_tokens, num_experts] : shapes) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      SCOPED_TRACE(testing::Message()
                   << num_tokens << " x " << num_experts << " " << to_string(dtype));
      SinkhornCase sinkhorn(num_tokens, num_experts, dtype);
      run_case(sinkhorn);
      sinkhorn.expect_right(/*relative_error=*/1e-4);
    }
  }
}

TEST_F(CudaSinkhorn, EndsAtTheCapWhereTheToleranceIsZero) {
  SinkhornCase sinkhorn(40, 5, DType::kFloat32);
  sinkhorn.tolerance = 0;
  sinkhorn.max_iterations = 17;
  run_case(sinkhorn);
  EXPECT_EQ(sinkhorn.iterations.get_integer(0), 17);
  sinkhorn.expect_right(1e-4);
}

TEST_F(CudaSinkhorn, KeepsHugeAndMaskedLogitsFinite) {
  SinkhornCase sinkhorn(40, 5, DType::kFloat32);
  for (int64_t i = 0; i < 200; i += 3) sinkhorn.cost.set(i, i % 2 == 0 ? 3e4 : -3e4);
  for (int64_t i = 5; i < 10; ++i) {
    sinkhorn.cost.set(i, -std::numeric_limits<double>::infinity());
  }
  run_case(sinkhorn);
  for (double value : sinkhorn.output.values()) EXPECT_TRUE(std::isfinite(value));
  for (int64_t i = 5; i < 10; ++i) EXPECT_EQ(sinkhorn.output.get(i), 0.0);
}

TEST_F(CudaSinkhorn, WithoutTokensOrExpertsDoesNoIteration) {
  for (const auto& [num_tokens, num_experts] : {std::pair{0, 4}, std::pair{4, 0}}) {
    SinkhornCase sinkhorn(num_tokens, num_experts, DType::kFloat32);
    run_case(sinkhorn);
    EXPECT_EQ(sinkhorn.iterations.get_integer(0), 0);
  }
}

TEST_F(CudaSinkhorn, RepeatsItsBits) {
  SinkhornCase first(3000, 64, DType::kFloat32);
  SinkhornCase second(3000, 64, DType::kFloat32);
  run_case(first);
  run_case(second);
  EXPECT_TRUE(same_bits(first.output, second.output));
}

}  // namespace
}  // namespace gg::test
