// Top-k routing: from the router's logits to each token's experts, their
// weights and the counts, with the sums that auxiliary losses need; and its
// gradient. One pass over the logits each way; none for the gradient of weights
// that are a softmax over the chosen logits, which probs and indices tell.
#pragma once

#include "grouped_gemm/permute.h"
#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"

namespace gg {

inline constexpr int kMaxRouteExperts = 1024;
inline constexpr int kMaxRouteTopk = 32;
inline constexpr int kMaxRouteGroups = 32;

enum class ScoreFunction : uint8_t { kSoftmax, kSigmoid };

// How a token's experts and weights follow from its logits x[E].
//
// Scores: softmax or sigmoid of x. Experts are chosen by the score plus the
// expert's bias; for softmax after the top-k (pre_softmax false) by x plus the
// bias. Where that order is the order of x itself (no bias, no groups), x
// decides, so that scores that round to one value are no ties. Ties go to the
// lowest index; NaN is the largest; a logit of -inf is chosen last.
//
// Weight of a chosen expert, times scaling_factor:
//   softmax, pre_softmax, no normalize_topk   its score
//   sigmoid, no normalize_topk                its score
//   everything else                           its score / the chosen ones' sum
// A sum is never 0: it is computed as a softmax over the chosen scores' logs.
struct RouteOptions {
  int topk = 1;
  ScoreFunction score_function = ScoreFunction::kSoftmax;
  bool pre_softmax = false;
  bool normalize_topk = false;
  int num_groups = 1;        // experts form groups of E / num_groups neighbours;
  int group_topk = 1;        // only those of the group_topk best groups are chosen from,
  int group_score_topk = 2;  // a group's score being the sum of that many of its best
  double scaling_factor = 1.0;

  bool operator==(const RouteOptions&) const = default;
};

// Tokens come in num_sequences runs of T / num_sequences; counts and sums are
// those of each run (1: of the whole batch).
struct RouteProblem {
  RouteOptions options;
  int64_t num_sequences = 1;
  TensorView logits{};             // [T, E] fp32, bf16, fp16 (fp64 on the CPU), contiguous
  TensorView expert_bias{};        // optional, [E] fp32 (fp64 beside fp64 logits)
  TensorView probs{};              // [T, topk] fp32 (fp64 beside fp64 logits), best first
  TensorView indices{};            // [T, topk] int32
  TensorView tokens_per_expert{};  // [num_sequences, E] int32
  // Optional, both or neither: sums over each run's tokens of the scores, scaled
  // to sum to 1 for each token, and of (log sum exp x)^2. fp32 (fp64).
  TensorView score_sums{};      // [num_sequences, E]
  TensorView z_sums{};          // [num_sequences]
  TensorView invalid_tokens{};  // optional, [num_sequences] int32: rows with NaN or +inf
  // Optional, both or neither: the row map of all tokens' slots, as permute makes it of
  // these indices without drops, for PermuteProblem::map_is_given.
  TensorView row_id_map{};  // [topk, T] int32: the row of each slot in expert order
  TensorView offsets{};     // [E] int32: cumulative ends of the experts' rows, pads included
  int64_t align_size = 1;   // each expert's rows are padded to a multiple; above 1: needs the map
};

// The permutation of rows without features that would make the problem's row map; its
// group sizes are the first sequence's counts.
PermuteProblem row_map_problem(const RouteProblem& problem);

struct RouteBwdProblem {
  RouteOptions options;
  int64_t num_sequences = 1;
  TensorView logits{};           // as in the forward
  TensorView indices{};          // [T, topk] int32, the forward's
  TensorView probs{};            // [T, topk], the forward's; needed beside probs_grad
  TensorView probs_grad{};       // optional, [T, topk] of probs' dtype
  TensorView score_sums_grad{};  // optional, [num_sequences, E]
  TensorView z_sums_grad{};      // optional, [num_sequences]
  TensorView logits_grad{};      // [T, E] of logits' dtype
};

struct RoutePlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;
  int pieces_per_sequence = 0;   // their sums are added in order
  int lanes_per_token = 0;       // CUDA: 8 or 32 lanes hold a token's logits,
  int values_per_lane = 0;       // so many in each
  int tokens_per_tile = 0;       // CUDA, route_bwd of chosen logits alone: a warp's tokens
  int64_t tokens_per_piece = 0;  // CUDA: neighbours, whose counts the row map takes over; else 0
  bool adds_totals = true;       // CUDA: a launch of its own adds up counts and sums
  PermutePlan map{};             // how the row map is sorted, where one is wanted

  bool operator==(const RoutePlan&) const = default;
};

// Throws Error for anything wrong with the problem.
RoutePlan plan_route(const RouteProblem& problem, const Target& target);
RoutePlan plan_route_bwd(const RouteBwdProblem& problem, const Target& target);
void run(const RoutePlan& plan, const RouteProblem& problem, Workspace workspace,
         Stream stream = {});
void run(const RoutePlan& plan, const RouteBwdProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const RoutePlan& plan);

}  // namespace gg
