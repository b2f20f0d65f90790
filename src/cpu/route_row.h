// The scores of one token and the weights of its chosen experts, as
// grouped_gemm/route.h defines them: what route.cc and route_bwd.cc share.
// Acc is float, or double for float64 logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/dispatch.h"
#include "grouped_gemm/route.h"

namespace gg::cpu {

template <typename Acc>
Acc sigmoid(Acc x) {
  return Acc(1) / (Acc(1) + std::exp(-x));
}

template <typename Acc>
Acc log_sigmoid(Acc x) {
  return std::min(x, Acc(0)) - std::log1p(std::exp(-std::fabs(x)));
}

// x[E] and what normalises its scores. A row of -inf alone has scores of 0.
template <typename Acc>
struct RowScores {
  const Acc* x;
  Acc largest = 0;
  Acc softmax_sum = 0;
  Acc sigmoid_sum = 0;

  RowScores(const Acc* logits, int64_t num_experts) : x(logits) {
    constexpr Acc kMasked = -std::numeric_limits<Acc>::infinity();
    largest = kMasked;
    for (int64_t e = 0; e < num_experts; ++e) largest = std::fmax(largest, x[e]);
    if (largest == kMasked) largest = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      softmax_sum += std::exp(x[e] - largest);
      sigmoid_sum += sigmoid(x[e]);
    }
  }

  Acc softmax(int64_t e) const { return std::exp(x[e] - largest) / positive(softmax_sum); }

  // Sums to 1 over the experts.
  Acc normalized(ScoreFunction function, int64_t e) const {
    return function == ScoreFunction::kSoftmax ? softmax(e) : sigmoid(x[e]) / positive(sigmoid_sum);
  }

  Acc logsumexp() const { return softmax_sum > 0 ? largest + std::log(softmax_sum) : softmax_sum; }

 private:
  static Acc positive(Acc sum) { return std::max(sum, std::numeric_limits<Acc>::min()); }
};

inline bool is_normalized(const RouteOptions& o) {
  return o.normalize_topk || (o.score_function == ScoreFunction::kSoftmax && !o.pre_softmax);
}

// weights[topk] of the chosen experts, before the scaling factor.
template <typename Acc>
void choose_weights(const RouteOptions& o, const RowScores<Acc>& row, const int32_t* chosen,
                    Acc* weights) {
  const bool is_sigmoid = o.score_function == ScoreFunction::kSigmoid;
  if (!is_normalized(o)) {
    for (int k = 0; k < o.topk; ++k) {
      weights[k] = is_sigmoid ? sigmoid(row.x[chosen[k]]) : row.softmax(chosen[k]);
    }
    return;
  }
  constexpr Acc kMasked = -std::numeric_limits<Acc>::infinity();
  Acc largest = kMasked;
  for (int k = 0; k < o.topk; ++k) {
    const Acc x = row.x[chosen[k]];
    weights[k] = is_sigmoid ? log_sigmoid(x) : x;
    largest = std::fmax(largest, weights[k]);
  }
  if (largest == kMasked) largest = 0;  // every chosen expert is masked: weights of 0
  Acc sum = 0;
  for (int k = 0; k < o.topk; ++k) sum += weights[k] = std::exp(weights[k] - largest);
  for (int k = 0; k < o.topk; ++k) weights[k] /= std::max(sum, std::numeric_limits<Acc>::min());
}

template <typename Acc>
void load_row(const TensorView& tensor, int64_t t, Acc* row) {
  const int64_t width = tensor.size(1);
  with_float_type(tensor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* source = static_cast<const T*>(tensor.data) + t * width;
    for (int64_t e = 0; e < width; ++e) row[e] = convert<Acc>(source[e]);
  });
}

}  // namespace gg::cpu
