// Gradient of route on the CPU: the three gradients (of the weights, of the score
// sums, of the squared logsumexp) meet in one row. The weights are the forward's;
// scores of other experts are computed again from the logits, where they are
// needed. The choice itself has no gradient.
#include "cpu/door.h"
#include "cpu/parallel.h"
#include "cpu/route_row.h"

namespace gg::cpu {
namespace {

// Whether a weight depends on every logit: softmax before the top-k.
bool spreads(const RouteOptions& o) {
  return o.score_function == ScoreFunction::kSoftmax && !is_normalized(o);
}

// Adds the gradient of sum_k probs_grad[k] * probs[k] to grad[E].
template <typename Acc>
void add_probs_grad(const RouteBwdProblem& p, int64_t t, const RowScores<Acc>& row, Acc* grad) {
  const RouteOptions& o = p.options;
  const bool is_sigmoid = o.score_function == ScoreFunction::kSigmoid;
  const int32_t* chosen = static_cast<const int32_t*>(p.indices.data) + t * o.topk;
  const Acc* probs = static_cast<const Acc*>(p.probs.data) + t * o.topk;
  const Acc* probs_grad = static_cast<const Acc*>(p.probs_grad.data) + t * o.topk;
  for (int k = 0; k < o.topk; ++k) {
    if (chosen[k] < 0 || chosen[k] >= p.logits.size(1)) return;  // not the forward's
  }
  const Acc scale = static_cast<Acc>(o.scaling_factor);
  Acc dot = 0;  // normalized: the weights' mean of probs_grad
  for (int k = 0; k < o.topk; ++k) {
    const Acc weight = is_normalized(o) && scale != 0 ? probs[k] / scale : probs[k];
    dot += weight * probs_grad[k];
  }
  if (spreads(o)) {
    for (int64_t e = 0; e < p.logits.size(1); ++e) grad[e] -= row.softmax(e) * dot;
  }
  for (int k = 0; k < o.topk; ++k) {
    Acc value = probs[k] * (is_normalized(o) ? probs_grad[k] - dot : probs_grad[k]);
    if (is_sigmoid) value *= sigmoid(-row.x[chosen[k]]);
    grad[chosen[k]] += value;
  }
}

template <typename Acc>
void add_score_sums_grad(const RouteBwdProblem& p, const Acc* sums_grad, const RowScores<Acc>& row,
                         Acc* grad) {
  const ScoreFunction function = p.options.score_function;
  Acc dot = 0;
  for (int64_t e = 0; e < p.logits.size(1); ++e) dot += row.normalized(function, e) * sums_grad[e];
  for (int64_t e = 0; e < p.logits.size(1); ++e) {
    const Acc value = row.normalized(function, e) * (sums_grad[e] - dot);
    grad[e] += function == ScoreFunction::kSoftmax ? value : value * sigmoid(-row.x[e]);
  }
}

template <typename Acc>
void backward_token(const RouteBwdProblem& p, int64_t t, int64_t sequence, Acc* x, Acc* grad) {
  const int64_t E = p.logits.size(1);
  load_row(p.logits, t, x);
  const RowScores<Acc> row(x, E);
  std::fill(grad, grad + E, Acc(0));
  if (p.probs_grad.defined()) add_probs_grad(p, t, row, grad);
  if (p.score_sums_grad.defined()) {
    const Acc* sums_grad = static_cast<const Acc*>(p.score_sums_grad.data) + sequence * E;
    add_score_sums_grad(p, sums_grad, row, grad);
  }
  if (p.z_sums_grad.defined()) {
    const Acc scale = 2 * row.logsumexp() * static_cast<const Acc*>(p.z_sums_grad.data)[sequence];
    for (int64_t e = 0; e < E; ++e) grad[e] += scale * row.softmax(e);
  }
  for (int64_t e = 0; e < E; ++e) {
    store_float(p.logits_grad, t * E + e, static_cast<double>(grad[e]));
  }
}

template <typename Acc>
void backward_all(const RouteBwdProblem& p, const Stream& stream) {
  const int64_t T = p.logits.size(0);
  const int64_t length = T / p.num_sequences;
  const int64_t grain = rows_per_piece(p.logits.size(1) * int64_t{16});
  parallel_for(stream, T, grain, [&](int64_t begin, int64_t end) {
    Acc x[kMaxRouteExperts];
    Acc grad[kMaxRouteExperts];
    for (int64_t t = begin; t < end; ++t) backward_token(p, t, t / length, x, grad);
  });
}

}  // namespace

void route_bwd(const RoutePlan& plan, const RouteBwdProblem& problem, Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  if (problem.logits.dtype == DType::kFloat64) {
    backward_all<double>(problem, stream);
  } else {
    backward_all<float>(problem, stream);
  }
}

}  // namespace gg::cpu
