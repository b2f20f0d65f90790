// Operands of one route and its gradient, and the rules of its header in plain
// double: scores by their definition, the choice by sorting.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "grouped_gemm/route.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {

struct RouteCase {
  RouteOptions options;
  int64_t num_sequences;
  Tensor logits, bias, probs, indices, counts, score_sums, z_sums, invalid;
  Tensor probs_grad, score_sums_grad, z_sums_grad, logits_grad;
  bool has_bias = false;
  bool only_weights = false;  // the sums have no gradient

  RouteCase(int64_t T, int64_t E, RouteOptions route_options, DType dtype = DType::kFloat32,
            int64_t sequences = 1)
      : options(route_options),
        num_sequences(sequences),
        logits(dtype, {T, E}),
        bias(wide(dtype), {E}),
        probs(wide(dtype), {T, options.topk}),
        indices(DType::kInt32, {T, options.topk}),
        counts(DType::kInt32, {sequences, E}),
        score_sums(wide(dtype), {sequences, E}),
        z_sums(wide(dtype), {sequences}),
        invalid(DType::kInt32, {sequences}),
        probs_grad(wide(dtype), {T, options.topk}),
        score_sums_grad(wide(dtype), {sequences, E}),
        z_sums_grad(wide(dtype), {sequences}),
        logits_grad(dtype, {T, E}) {
    fill_random(logits, 41, -4, 4);
    fill_random(bias, 42, -0.125, 0.125);
    fill_random(probs_grad, 43, -1, 1);
    fill_random(score_sums_grad, 44, -1, 1);
    fill_random(z_sums_grad, 45, -0.1, 0.1);
  }

  static DType wide(DType dtype) {
    return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  }

  int64_t T() const { return logits.size(0); }
  int64_t E() const { return logits.size(1); }

  RouteProblem problem() const {
    return {.options = options,
            .num_sequences = num_sequences,
            .logits = logits.view(),
            .expert_bias = has_bias ? bias.view() : TensorView{},
            .probs = probs.view(),
            .indices = indices.view(),
            .tokens_per_expert = counts.view(),
            .score_sums = score_sums.view(),
            .z_sums = z_sums.view(),
            .invalid_tokens = invalid.view()};
  }

  RouteBwdProblem bwd_problem() const {
    return {.options = options,
            .num_sequences = num_sequences,
            .logits = logits.view(),
            .indices = indices.view(),
            .probs = probs.view(),
            .probs_grad = probs_grad.view(),
            .score_sums_grad = only_weights ? TensorView{} : score_sums_grad.view(),
            .z_sums_grad = only_weights ? TensorView{} : z_sums_grad.view(),
            .logits_grad = logits_grad.view()};
  }

  bool is_sigmoid() const { return options.score_function == ScoreFunction::kSigmoid; }
  bool post_softmax() const { return !is_sigmoid() && !options.pre_softmax; }

  std::vector<double> row(int64_t t) const {
    std::vector<double> x;
    for (int64_t e = 0; e < E(); ++e) x.push_back(logits.get(t * E() + e));
    return x;
  }

  static double logsumexp(const std::vector<double>& x) {
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double value : x) sum += std::exp(value - top);
    return top + std::log(sum);
  }

  std::vector<double> scores(std::vector<double> x) const {
    const double z = logsumexp(x);
    for (double& value : x) {
      value = is_sigmoid() ? 1 / (1 + std::exp(-value)) : std::exp(value - z);
    }
    return x;
  }

  // What experts are ordered by.
  std::vector<double> keys(const std::vector<double>& x) const {
    std::vector<double> key = x;
    if ((has_bias || options.num_groups > 1) && !post_softmax()) key = scores(x);
    for (size_t e = 0; has_bias && e < key.size(); ++e) key[e] += bias.get(static_cast<int64_t>(e));
    return key;
  }

  static std::vector<size_t> best_first(const std::vector<double>& key) {
    std::vector<size_t> order(key.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return key[a] > key[b]; });
    return order;
  }

  std::vector<size_t> choice(const std::vector<double>& key) const {
    const size_t groups = static_cast<size_t>(options.num_groups);
    const size_t size = key.size() / groups;
    std::vector<double> group_scores;
    for (size_t g = 0; g < groups; ++g) {
      std::vector<double> own(key.begin() + static_cast<long>(g * size),
                              key.begin() + static_cast<long>((g + 1) * size));
      std::sort(own.rbegin(), own.rend());
      own.resize(std::min(size, static_cast<size_t>(options.group_score_topk)));
      group_scores.push_back(std::accumulate(own.begin(), own.end(), 0.0));
    }
    std::vector<size_t> open = best_first(group_scores);
    open.resize(static_cast<size_t>(options.group_topk));
    std::vector<size_t> chosen;
    for (size_t e : best_first(key)) {
      const bool is_open = std::find(open.begin(), open.end(), e / size) != open.end();
      if (is_open && chosen.size() < static_cast<size_t>(options.topk)) chosen.push_back(e);
    }
    return chosen;
  }

  std::vector<double> weights(const std::vector<double>& x,
                              const std::vector<size_t>& chosen) const {
    const std::vector<double> score = scores(x);
    const bool normalizes = options.normalize_topk || post_softmax();
    double sum = 0;
    for (size_t e : chosen) sum += score[e];
    std::vector<double> result;
    for (size_t e : chosen) {
      result.push_back(options.scaling_factor * score[e] / (normalizes ? sum : 1));
    }
    return result;
  }

  // sum of outputs * their gradients for one token: whose slope is the gradient.
  double objective(int64_t t, const std::vector<double>& x,
                   const std::vector<size_t>& chosen) const {
    const int64_t sequence = t / (T() / num_sequences);
    double sum = 0;
    const std::vector<double> weight = weights(x, chosen);
    for (size_t k = 0; k < weight.size(); ++k) {
      sum += weight[k] * probs_grad.get(t * options.topk + static_cast<int64_t>(k));
    }
    if (only_weights) return sum;
    const std::vector<double> score = scores(x);
    const double total = std::accumulate(score.begin(), score.end(), 0.0);
    for (int64_t e = 0; e < E(); ++e) {
      sum += score[static_cast<size_t>(e)] / total * score_sums_grad.get(sequence * E() + e);
    }
    return sum + std::pow(logsumexp(x), 2) * z_sums_grad.get(sequence);
  }

  void expect_right(double error) const {
    Expected weight(probs.num_elements()), sums(score_sums.num_elements()), z(num_sequences);
    std::vector<int64_t> count(static_cast<size_t>(counts.num_elements()));
    for (int64_t t = 0; t < T(); ++t) {
      const size_t sequence = static_cast<size_t>(t / (T() / num_sequences));
      const std::vector<double> x = row(t);
      const std::vector<double> key = keys(x);
      std::vector<size_t> chosen = choice(key);
      for (size_t k = 0; k < chosen.size(); ++k) {
        const int64_t actual = indices.get_integer(t * options.topk + static_cast<int64_t>(k));
        ASSERT_TRUE(actual >= 0 && actual < E()) << "token " << t << ", rank " << k;
        // Keys that float32 cannot tell apart may come in either order.
        const double difference = std::fabs(key[static_cast<size_t>(actual)] - key[chosen[k]]);
        if (difference > 0 && difference < 3e-7) chosen[k] = static_cast<size_t>(actual);
      }
      const std::vector<double> w = weights(x, chosen);
      const std::vector<double> score = scores(x);
      const double total = std::accumulate(score.begin(), score.end(), 0.0);
      for (size_t k = 0; k < chosen.size(); ++k) {
        const size_t i = static_cast<size_t>(t * options.topk) + k;
        ASSERT_EQ(indices.get_integer(static_cast<int64_t>(i)), static_cast<int64_t>(chosen[k]))
            << "token " << t << ", rank " << k;
        weight.values[i] = w[k];
        weight.tolerances[i] = error * w[k];
        ++count[sequence * x.size() + chosen[k]];
      }
      for (size_t e = 0; e < x.size(); ++e)
        sums.values[sequence * x.size() + e] += score[e] / total;
      z.values[sequence] += std::pow(logsumexp(x), 2);
    }
    for (size_t i = 0; i < sums.values.size(); ++i)
      sums.tolerances[i] = 10 * error * sums.values[i];
    for (size_t i = 0; i < z.values.size(); ++i) z.tolerances[i] = 10 * error * z.values[i];
    EXPECT_TRUE(is_close(probs, weight));
    EXPECT_TRUE(is_close(score_sums, sums));
    EXPECT_TRUE(is_close(z_sums, z));
    EXPECT_EQ(counts.integers(), count);
    for (int64_t s = 0; s < num_sequences; ++s) EXPECT_EQ(invalid.get_integer(s), 0);
    for (const Tensor* tensor : {&probs, &indices, &counts, &score_sums, &z_sums, &invalid}) {
      EXPECT_TRUE(tensor->guards_intact());
    }
  }

  // Against central differences of the objective, the choice held fast; of many
  // experts a sample.
  void expect_right_gradient(double error) const {
    Expected grad(logits.num_elements());
    grad.values = logits_grad.values();
    const size_t step = 1 + static_cast<size_t>(E()) / 48;
    for (int64_t t = 0; t < T(); ++t) {
      std::vector<double> x = row(t);
      std::vector<size_t> chosen;
      for (int64_t k = 0; k < options.topk; ++k) {
        chosen.push_back(static_cast<size_t>(indices.get_integer(t * options.topk + k)));
      }
      for (size_t e = static_cast<size_t>(t) % step; e < x.size(); e += step) {
        constexpr double kStep = 1e-5;
        const double at = x[e];
        x[e] = at + kStep;
        const double above = objective(t, x, chosen);
        x[e] = at - kStep;
        const double below = objective(t, x, chosen);
        x[e] = at;
        const size_t i = static_cast<size_t>(t) * x.size() + e;
        grad.values[i] = (above - below) / (2 * kStep);
        grad.tolerances[i] = error * (1 + std::fabs(grad.values[i]));
      }
    }
    EXPECT_TRUE(is_close(logits_grad, grad));
    EXPECT_TRUE(logits_grad.guards_intact());
  }
};

// Every kind of score, choice and weight.
inline std::vector<RouteOptions> route_variants() {
  constexpr ScoreFunction kSigmoid = ScoreFunction::kSigmoid;
  return {{.topk = 3},
          {.topk = 1, .scaling_factor = 2.5},
          {.topk = 3, .pre_softmax = true},
          {.topk = 2, .pre_softmax = true, .normalize_topk = true},
          {.topk = 3, .score_function = kSigmoid},
          {.topk = 4, .pre_softmax = true, .num_groups = 4, .group_topk = 2, .group_score_topk = 1},
          {.topk = 3,
           .score_function = kSigmoid,
           .normalize_topk = true,
           .num_groups = 4,
           .group_topk = 2,
           .scaling_factor = 2.5}};
}

inline constexpr std::pair<int64_t, int64_t> kRouteShapes[] = {
    {1, 8},    {70, 8},  {33, 20}, {50, 32}, {9, 64},
    {20, 128}, {9, 200}, {5, 256}, {4, 512}, {3, 1024}};

// Rows that are not multiples of 16 bytes.
inline constexpr int64_t kOddExperts[] = {5, 9, 33, 129, 1023};

}  // namespace gg::test
