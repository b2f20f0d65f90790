// Operands of one grouped product with random contents, and what it should give,
// computed in double with a bound for each element. For the CPU's tests and the
// GPU's alike.
#pragma once

#include <cmath>
#include <vector>

#include "grouped_gemm/gmm.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {

// How the sizes of the groups are said.
struct SizesKind {
  DType dtype = DType::kInt64;
  bool cumulative = false;
};
inline constexpr SizesKind kSizesKinds[] = {
    {DType::kInt64, false}, {DType::kInt32, false}, {DType::kInt64, true}, {DType::kInt32, true}};

inline Tensor sizes_tensor(const std::vector<int64_t>& sizes, SizesKind kind = {}) {
  Tensor tensor(kind.dtype, {static_cast<int64_t>(sizes.size())});
  int64_t end = 0;
  for (size_t e = 0; e < sizes.size(); ++e) {
    end += sizes[e];
    tensor.set_integer(static_cast<int64_t>(e), kind.cumulative ? end : sizes[e]);
  }
  return tensor;
}

inline GroupSizes groups_of(const TensorView& sizes, bool cumulative, bool on_host = true) {
  return {sizes.data, sizes.dtype, sizes.size(0), on_host, cumulative};
}

// Sums of `depth` float32 products in any order: 4 eps sqrt(depth) sum |products|.
inline double sum_tolerance(DType operands, int64_t depth, double magnitude) {
  const double epsilon =
      precision_of(operands == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32).epsilon;
  return 4 * epsilon * std::sqrt(static_cast<double>(depth)) * magnitude;
}

struct GmmCase {
  std::vector<int64_t> sizes;
  SizesKind kind;
  Tensor tokens;   // [T, K]
  Tensor weights;  // [E, N, K]
  Tensor groups;
  Tensor out;  // [T, N]

  GmmCase(const GroupShape& shape, MatrixShape matrix, DType in, DType result,
          int64_t extra_rows = 0, Layout layout = Layout::kPlain, SizesKind sizes_kind = {})
      : sizes(shape.sizes),
        kind(sizes_kind),
        tokens(laid_out(in, {shape.num_rows() + extra_rows, matrix.k}, layout)),
        weights(laid_out(in, {shape.num_experts(), matrix.n, matrix.k}, layout)),
        groups(sizes_tensor(shape.sizes, sizes_kind)),
        out(laid_out(result, {shape.num_rows() + extra_rows, matrix.n}, layout)) {
    fill_random(tokens, 1);
    fill_random(weights, 2);
  }

  GmmProblem problem() const {
    return {.tokens = tokens.view(),
            .weights = weights.view(),
            .groups = groups_of(groups.view(), kind.cumulative),
            .out = out.view()};
  }

  // Rows past the last group are zeros, exactly.
  Expected expected() const {
    const std::vector<double> x = tokens.values();
    const std::vector<double> w = weights.values();
    const int64_t num_n = weights.size(1);
    const int64_t num_k = weights.size(2);
    Expected result(out.num_elements());
    int64_t t = 0;
    for (size_t e = 0; e < sizes.size(); ++e) {
      for (const int64_t end = t + sizes[e]; t < end; ++t) {
        for (int64_t n = 0; n < num_n; ++n) {
          const double* token = x.data() + t * num_k;
          const double* weight = w.data() + (static_cast<int64_t>(e) * num_n + n) * num_k;
          double magnitude = 0;
          double& sum = result.values[static_cast<size_t>(t * num_n + n)];
          for (int64_t k = 0; k < num_k; ++k) {
            sum += token[k] * weight[k];
            magnitude += std::fabs(token[k] * weight[k]);
          }
          result.tolerances[static_cast<size_t>(t * num_n + n)] =
              sum_tolerance(tokens.dtype(), num_k, magnitude);
        }
      }
    }
    return result;
  }
};

struct WgradCase {
  std::vector<int64_t> sizes;
  SizesKind kind;
  bool accumulate;
  Tensor dy;      // [T, N]
  Tensor tokens;  // [T, K]
  Tensor groups;
  Tensor out;                    // [E, N, K]
  std::vector<double> previous;  // what out held, when accumulating

  WgradCase(const GroupShape& shape, MatrixShape matrix, DType in, DType result,
            bool accumulate = false, int64_t extra_rows = 0, Layout layout = Layout::kPlain,
            SizesKind sizes_kind = {})
      : sizes(shape.sizes),
        kind(sizes_kind),
        accumulate(accumulate),
        dy(laid_out(in, {shape.num_rows() + extra_rows, matrix.n}, layout)),
        tokens(laid_out(in, {shape.num_rows() + extra_rows, matrix.k}, layout)),
        groups(sizes_tensor(shape.sizes, sizes_kind)),
        out(laid_out(result, {shape.num_experts(), matrix.n, matrix.k}, layout)) {
    fill_random(dy, 3);
    fill_random(tokens, 4);
    if (accumulate) fill_random(out, 5);
    previous = out.values();
  }

  GmmWgradProblem problem() const {
    return {.dy = dy.view(),
            .tokens = tokens.view(),
            .groups = groups_of(groups.view(), kind.cumulative),
            .out = out.view(),
            .accumulate = accumulate};
  }

  // Empty groups give exact zeros, or what was there when accumulating.
  Expected expected() const {
    const std::vector<double> gradient = dy.values();
    const std::vector<double> x = tokens.values();
    const int64_t num_n = dy.size(1);
    const int64_t num_k = tokens.size(1);
    Expected result(out.num_elements());
    std::vector<double> magnitudes(result.values.size());
    int64_t t = 0;
    for (size_t e = 0; e < sizes.size(); ++e) {
      for (const int64_t end = t + sizes[e]; t < end; ++t) {
        for (int64_t n = 0; n < num_n; ++n) {
          const size_t row = (e * static_cast<size_t>(num_n) + static_cast<size_t>(n)) *
                             static_cast<size_t>(num_k);
          for (int64_t k = 0; k < num_k; ++k) {
            const double product = gradient[static_cast<size_t>(t * num_n + n)] *
                                   x[static_cast<size_t>(t * num_k + k)];
            result.values[row + static_cast<size_t>(k)] += product;
            magnitudes[row + static_cast<size_t>(k)] += std::fabs(product);
          }
        }
      }
    }
    const size_t per_group = static_cast<size_t>(num_n * num_k);
    for (size_t i = 0; i < result.values.size(); ++i) {
      if (accumulate) {
        result.values[i] += previous[i];
        if (sizes[i / per_group] > 0) magnitudes[i] += std::fabs(previous[i]);
      }
      result.tolerances[i] = sum_tolerance(dy.dtype(), sizes[i / per_group], magnitudes[i]);
    }
    return result;
  }
};

}  // namespace gg::test
