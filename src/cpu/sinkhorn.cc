// sinkhorn on the CPU, the formula of sinkhorn.h with row maxima m subtracted:
// with C' = exp(cost - m), C d1 = exp(m) C' d1, so that d0' = exp(m) d0 is
// 1 / (T (C' d1 + eps exp(-m))), and everything else needs d0' and C' alone.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/math.h"
#include "cpu/dispatch.h"
#include "cpu/door.h"
#include "cpu/parallel.h"

namespace gg::cpu {
namespace {

constexpr double kEpsilon = 1e-8;

// Scratch in double: scaled[T, E] = C', d0[T], epsilon[T] = eps exp(-m), d1[E],
// sums[E] = C'^T d0.
struct Scratch {
  int64_t T, E;
  double* scaled;
  double* d0 = scaled + T * E;
  double* epsilon = d0 + T;
  double* d1 = epsilon + T;
  double* sums = d1 + E;
};

void scale_row(const TensorView& cost, const Scratch& s, int64_t t) {
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t e = 0; e < s.E; ++e) largest = std::fmax(largest, load_float(cost, t * s.E + e));
  const bool is_empty_row = std::isinf(largest) && largest < 0;  // every logit is -inf
  for (int64_t e = 0; e < s.E; ++e) {
    const double logit = load_float(cost, t * s.E + e);
    s.scaled[t * s.E + e] = is_empty_row ? 0.0 : std::exp(logit - largest);
  }
  s.epsilon[t] = kEpsilon * std::exp(-largest);
}

void update_row(const Scratch& s, int64_t t) {
  double sum = 0;
  for (int64_t e = 0; e < s.E; ++e) sum += s.scaled[t * s.E + e] * s.d1[e];
  s.d0[t] = 1.0 / (static_cast<double>(s.T) * (sum + s.epsilon[t]));
}

// Returns mean |change of d1|.
double update_columns(const Scratch& s) {
  std::fill(s.sums, s.sums + s.E, 0.0);
  for (int64_t t = 0; t < s.T; ++t) {
    for (int64_t e = 0; e < s.E; ++e) s.sums[e] += s.scaled[t * s.E + e] * s.d0[t];
  }
  double change = 0;
  for (int64_t e = 0; e < s.E; ++e) {
    const double updated = 1.0 / (static_cast<double>(s.E) * (s.sums[e] + kEpsilon));
    change += std::fabs(updated - s.d1[e]);
    s.d1[e] = updated;
  }
  return change / static_cast<double>(s.E);
}

void report(const SinkhornProblem& problem, int iterations, double error) {
  if (problem.iterations.defined()) *static_cast<int32_t*>(problem.iterations.data) = iterations;
  if (problem.error.defined()) {
    *static_cast<float*>(problem.error.data) = static_cast<float>(error);
  }
}

}  // namespace

int64_t sinkhorn_workspace_bytes(const SinkhornProblem& problem) {
  const int64_t T = problem.cost.size(0);
  const int64_t E = problem.cost.size(1);
  return (T * E + 2 * T + 2 * E) * int64_t{sizeof(double)};
}

void sinkhorn(const SinkhornPlan& plan, const SinkhornProblem& problem, Workspace workspace,
              Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  if (problem.cost.num_elements() == 0) return report(problem, 0, 0);
  const Scratch s{.T = problem.cost.size(0),
                  .E = problem.cost.size(1),
                  .scaled = static_cast<double*>(workspace.data)};
  const int64_t grain = rows_per_piece(s.E * int64_t{sizeof(double)});
  const auto for_rows = [&](const auto& body) {
    parallel_for(stream, s.T, grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) body(t);
    });
  };
  for_rows([&](int64_t t) { scale_row(problem.cost, s, t); });
  for (int64_t e = 0; e < s.E; ++e) s.d1[e] = 1.0;

  int iterations = 0;
  double change = std::numeric_limits<double>::infinity();
  const auto has_converged = [&] { return problem.tolerance > 0 && change <= problem.tolerance; };
  while (iterations < problem.max_iterations && !has_converged()) {
    for_rows([&](int64_t t) { update_row(s, t); });
    change = update_columns(s);
    ++iterations;
  }
  for_rows([&](int64_t t) {
    for (int64_t e = 0; e < s.E; ++e) {
      store_float(problem.output, t * s.E + e, s.d1[e] * s.scaled[t * s.E + e] * s.d0[t]);
    }
  });
  report(problem, iterations, change);
}

}  // namespace gg::cpu
