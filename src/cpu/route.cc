// route on the CPU. Tokens are taken in pieces of a fixed length, each with
// counts and sums of its own, which are then added in order: the same bits for
// any number of threads. The rules: grouped_gemm/route.h.
#include <algorithm>
#include <limits>

#include "base/math.h"
#include "cpu/door.h"
#include "cpu/parallel.h"
#include "cpu/route_row.h"
#include "cpu/row_map.h"

namespace gg::cpu {
namespace {

constexpr int64_t kTokensPerPiece = 64;

// A piece's part of the workspace; Acc values have 8 bytes each, whatever Acc is.
template <typename Acc>
struct Piece {
  Acc* logits;      // [E] of the token at hand
  Acc* keys;        // [E]
  Acc* score_sums;  // [E]
  Acc* z_sum;       // [1]
  int32_t* open;    // [E]: 1 while an expert may still be chosen
  int32_t* counts;  // [E]
  int32_t* num_invalid;

  static int64_t bytes(int64_t num_experts) { return (4 * num_experts + 2) * 8; }

  Piece(void* workspace, int64_t index, int64_t E)
      : logits(reinterpret_cast<Acc*>(static_cast<char*>(workspace) + index * bytes(E))),
        keys(logits + E),
        score_sums(keys + E),
        z_sum(score_sums + E),
        open(reinterpret_cast<int32_t*>(static_cast<char*>(workspace) + index * bytes(E) +
                                        (3 * E + 1) * 8)),
        counts(open + E),
        num_invalid(counts + E) {
    std::fill(score_sums, score_sums + E + 1, Acc(0));
    std::fill(counts, counts + E + 1, 0);
  }
};

// NaN is larger than everything; equal keys are not larger, so the first stays.
template <typename Acc>
bool is_larger(Acc a, Acc b) {
  return a > b || (a != a && b == b);
}

template <typename Acc>
int32_t best_open(const Acc* keys, const int32_t* open, int64_t begin, int64_t end) {
  int64_t best = -1;
  for (int64_t e = begin; e < end; ++e) {
    if (open[e] != 0 && (best < 0 || is_larger(keys[e], keys[best]))) best = e;
  }
  return static_cast<int32_t>(best);
}

// Leaves open only the experts of the best groups.
template <typename Acc>
void close_groups(const RouteOptions& o, int64_t num_experts, const Acc* keys, int32_t* open) {
  const int64_t size = num_experts / o.num_groups;
  Acc scores[kMaxRouteGroups];
  int32_t chosen[kMaxRouteGroups];
  for (int g = 0; g < o.num_groups; ++g) {
    scores[g] = 0;
    for (int64_t n = 0; n < std::min<int64_t>(o.group_score_topk, size); ++n) {
      const int32_t best = best_open(keys, open, g * size, (g + 1) * size);
      scores[g] += keys[best];
      open[best] = 0;
    }
    chosen[g] = 1;
  }
  std::fill(open, open + num_experts, 0);
  for (int n = 0; n < o.group_topk; ++n) {
    const int32_t best = best_open(scores, chosen, 0, o.num_groups);
    chosen[best] = 0;
    std::fill(open + best * size, open + (best + 1) * size, 1);
  }
}

template <typename Acc>
void make_keys(const RouteProblem& p, const RowScores<Acc>& row, Acc* keys) {
  const RouteOptions& o = p.options;
  const bool by_logits = !p.expert_bias.defined() && o.num_groups == 1;
  const bool is_softmax = o.score_function == ScoreFunction::kSoftmax;
  const Acc* bias = static_cast<const Acc*>(p.expert_bias.data);
  for (int64_t e = 0; e < p.logits.size(1); ++e) {
    const Acc x = row.x[e];
    Acc key = x;
    if (!by_logits && x != -std::numeric_limits<Acc>::infinity()) {
      if (is_softmax && o.pre_softmax) key = row.softmax(e);
      if (!is_softmax) key = sigmoid(x);
      if (bias != nullptr) key += bias[e];
    }
    keys[e] = key;
  }
}

template <typename Acc>
void route_token(const RouteProblem& p, int64_t t, const Piece<Acc>& piece) {
  const RouteOptions& o = p.options;
  const int64_t E = p.logits.size(1);
  load_row(p.logits, t, piece.logits);
  const RowScores<Acc> row(piece.logits, E);
  make_keys(p, row, piece.keys);
  std::fill(piece.open, piece.open + E, 1);
  if (o.num_groups > 1) close_groups(o, E, piece.keys, piece.open);

  int32_t* indices = static_cast<int32_t*>(p.indices.data) + t * o.topk;
  for (int k = 0; k < o.topk; ++k) {
    indices[k] = best_open(piece.keys, piece.open, 0, E);
    piece.open[indices[k]] = 0;
    piece.counts[indices[k]] += 1;
  }
  Acc weights[kMaxRouteTopk];
  choose_weights(o, row, indices, weights);
  Acc* probs = static_cast<Acc*>(p.probs.data) + t * o.topk;
  for (int k = 0; k < o.topk; ++k) probs[k] = weights[k] * static_cast<Acc>(o.scaling_factor);

  const auto is_invalid = [](Acc x) { return !(x < std::numeric_limits<Acc>::infinity()); };
  *piece.num_invalid += std::any_of(row.x, row.x + E, is_invalid);
  if (!p.score_sums.defined()) return;
  for (int64_t e = 0; e < E; ++e) piece.score_sums[e] += row.normalized(o.score_function, e);
  *piece.z_sum += row.logsumexp() * row.logsumexp();
}

template <typename Acc>
void add_pieces(const RoutePlan& plan, const RouteProblem& p, void* workspace) {
  const int64_t E = p.logits.size(1);
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    int32_t* counts = static_cast<int32_t*>(p.tokens_per_expert.data) + s * E;
    int32_t invalid = 0;
    Acc z_sum = 0;
    Acc* score_sums = static_cast<Acc*>(p.score_sums.data) + (p.score_sums.defined() ? s * E : 0);
    std::fill(counts, counts + E, 0);
    if (p.score_sums.defined()) std::fill(score_sums, score_sums + E, Acc(0));
    for (int64_t i = 0; i < plan.pieces_per_sequence; ++i) {
      const char* start = static_cast<const char*>(workspace) +
                          (s * plan.pieces_per_sequence + i) * Piece<Acc>::bytes(E);
      const Acc* sums = reinterpret_cast<const Acc*>(start) + 2 * E;
      const int32_t* piece = reinterpret_cast<const int32_t*>(start + (3 * E + 1) * 8) + E;
      for (int64_t e = 0; e < E; ++e) counts[e] += piece[e];
      invalid += piece[E];
      if (!p.score_sums.defined()) continue;
      for (int64_t e = 0; e < E; ++e) score_sums[e] += sums[e];
      z_sum += sums[E];
    }
    if (p.z_sums.defined()) static_cast<Acc*>(p.z_sums.data)[s] = z_sum;
    if (p.invalid_tokens.defined()) static_cast<int32_t*>(p.invalid_tokens.data)[s] = invalid;
  }
}

template <typename Acc>
void route_all(const RoutePlan& plan, const RouteProblem& p, void* workspace,
               const Stream& stream) {
  const int64_t length = p.logits.size(0) / p.num_sequences;
  const int64_t pieces = plan.pieces_per_sequence;
  parallel_for(stream, p.num_sequences * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Piece<Acc> piece(workspace, i, p.logits.size(1));
      const int64_t start = i / pieces * length;
      const int64_t first = start + i % pieces * kTokensPerPiece;
      const int64_t last = std::min(first + kTokensPerPiece, start + length);
      for (int64_t t = first; t < last; ++t) route_token(p, t, piece);
    }
  });
  add_pieces<Acc>(plan, p, workspace);
}

// The map is made of all tokens' counts, which stand in the workspace where the
// public ones are those of several sequences.
PermuteProblem map_problem(const RouteProblem& p, void* counts) {
  PermuteProblem map = row_map_problem(p);
  if (p.num_sequences > 1) map.tokens_per_expert.data = counts;
  return map;
}

int64_t pieces_bytes(const RoutePlan& plan, const RouteProblem& p) {
  return p.num_sequences * plan.pieces_per_sequence * Piece<double>::bytes(p.logits.size(1));
}

void write_map(const RoutePlan& plan, const RouteProblem& p, Workspace workspace) {
  char* const counts = static_cast<char*>(workspace.data) + pieces_bytes(plan, p);
  const int64_t count_bytes = p.logits.size(1) * int64_t{sizeof(int32_t)};
  write_row_map(plan.map, map_problem(p, counts),
                Workspace{counts + count_bytes, plan.map.workspace_bytes});
}

}  // namespace

void plan_route(RoutePlan& plan, const RouteProblem& p) {
  const int64_t length = p.logits.size(0) / p.num_sequences;
  plan.pieces_per_sequence = static_cast<int>(base::ceil_div(length, kTokensPerPiece));
  plan.workspace_bytes = pieces_bytes(plan, p);
  if (!p.row_id_map.defined()) return;
  plan.map.path = plan.path;
  plan.map.workspace_bytes = row_map_workspace_bytes(row_map_problem(p));
  plan.workspace_bytes += p.logits.size(1) * int64_t{sizeof(int32_t)} + plan.map.workspace_bytes;
}

void route(const RoutePlan& plan, const RouteProblem& problem, Workspace workspace, Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  if (problem.logits.dtype == DType::kFloat64) {
    route_all<double>(plan, problem, workspace.data, stream);
  } else {
    route_all<float>(plan, problem, workspace.data, stream);
  }
  if (problem.row_id_map.defined()) write_map(plan, problem, workspace);
}

}  // namespace gg::cpu
