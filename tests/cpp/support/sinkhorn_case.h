// Operands of one sinkhorn, and the formula of its header in plain double: no
// maxima subtracted, so that it is the second opinion on the version that does.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "grouped_gemm/sinkhorn.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {

struct SinkhornCase {
  Tensor cost;    // [T, E]
  Tensor output;  // [T, E]
  Tensor iterations{DType::kInt32, {1}};
  Tensor error{DType::kFloat32, {1}};
  double tolerance = 1e-4;
  int max_iterations = 100;

  SinkhornCase(int64_t num_tokens, int64_t num_experts, DType dtype)
      : cost(dtype, {num_tokens, num_experts}), output(dtype, {num_tokens, num_experts}) {
    fill_random(cost, 40, -3, 3);
  }

  SinkhornProblem problem() const {
    return {.cost = cost.view(),
            .output = output.view(),
            .tolerance = tolerance,
            .max_iterations = max_iterations,
            .iterations = iterations.view(),
            .error = error.view()};
  }

  // The formula after that many iterations.
  std::vector<double> formula(int64_t num_iterations) const {
    const size_t T = static_cast<size_t>(cost.size(0));
    const size_t E = static_cast<size_t>(cost.size(1));
    constexpr double kEpsilon = 1e-8;
    std::vector<double> C = cost.values();
    for (double& value : C) value = std::exp(value);
    std::vector<double> d0(T, 1.0);
    std::vector<double> d1(E, 1.0);
    for (int64_t i = 0; i < num_iterations; ++i) {
      for (size_t t = 0; t < T; ++t) {
        double sum = 0;
        for (size_t e = 0; e < E; ++e) sum += C[t * E + e] * d1[e];
        d0[t] = 1 / (static_cast<double>(T) * (sum + kEpsilon));
      }
      for (size_t e = 0; e < E; ++e) {
        double sum = 0;
        for (size_t t = 0; t < T; ++t) sum += C[t * E + e] * d0[t];
        d1[e] = 1 / (static_cast<double>(E) * (sum + kEpsilon));
      }
    }
    for (size_t i = 0; i < C.size(); ++i) C[i] *= d1[i % E] * d0[i / E];
    return C;
  }

  // Equal to the formula at the number of iterations that was reported, and that
  // number is where the tolerance or the cap ends it.
  void expect_right(double relative_error) const {
    const int64_t done = iterations.get_integer(0);
    ASSERT_GE(done, 1);
    ASSERT_LE(done, max_iterations);
    const bool converged = tolerance > 0 && error.get(0) <= tolerance;
    EXPECT_TRUE(converged || done == max_iterations);
    Expected expected(output.num_elements());
    expected.values = formula(done);
    for (size_t i = 0; i < expected.values.size(); ++i) {
      expected.tolerances[i] = relative_error * std::fabs(expected.values[i]);
    }
    EXPECT_TRUE(is_close(output, expected));
    for (const Tensor* tensor : {&output, &iterations, &error}) {
      EXPECT_TRUE(tensor->guards_intact());
    }
  }
};

}  // namespace gg::test
