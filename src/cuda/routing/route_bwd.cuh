// Gradient of route on CUDA: what both kernels take, and what a chosen expert's
// logit gets through the weights. The weights are those of the forward.
//
//   route_bwd_chosen.cuh   only chosen logits get a gradient: no other is read
//   route_bwd_dense.cuh    every logit gets one: softmax before the top-k, the sums
//
// Launched by route_bwd.cu; the plain loops: src/cpu/route_bwd.cc.
#pragma once

#include "cuda/routing/route_row.cuh"

namespace gg::cuda {

struct RouteBwdArgs {
  const void* logits;            // [T, E]
  const int* indices;            // [T, topk]
  const float* probs;            // [T, topk]; null beside probs_grad alone
  const float* probs_grad;       // [T, topk] or null
  const float* score_sums_grad;  // [S, E] or null
  const float* z_sums_grad;      // [S] or null
  void* logits_grad;             // [T, E]
  int64_t num_tokens;
  int num_experts;
  bool moves_chunks;    // dense: of logits and gradient, 16 bytes or all of a lane's values
  RoutePieces pieces;   // dense
  int tokens_per_tile;  // chosen: a power of two
  int tile_bytes;       // rounded up to 16
  int log2_choice_lanes;
  bool stores_vectors;  // every tile of the gradient starts at a multiple of 16 bytes
  RouteRule rule;
};

// One choice of a token, with its weight's gradient; expert -1: none, or no expert.
struct WeighedChoice {
  int expert = -1;
  float prob = 0.0f;
  float prob_grad = 0.0f;

  __device__ __forceinline__ void load(const RouteBwdArgs& args, int64_t at) {
    expert = args.indices[at];
    prob = args.probs[at];
    prob_grad = args.probs_grad[at];
  }

  __device__ __forceinline__ void forget_unless_below(int num_experts) {
    if (static_cast<unsigned>(expert) < static_cast<unsigned>(num_experts)) return;
    expert = -1;
    prob = prob_grad = 0.0f;
  }

  // Its part of the token's dot product: of weights that sum to 1 where they are
  // normalized, so that `gradient` subtracts a mean, and of one weight all of it.
  __device__ __forceinline__ float product(const RouteRule& rule) const {
    const bool divides = rule.is_normalized && rule.scaling_factor != 0.0f;
    return (divides ? prob / rule.scaling_factor : prob) * prob_grad;
  }

  // Of the chosen logit; for a sigmoid still to be multiplied by its 1 - score. A
  // softmax over all logits takes softmax(x) * dot from each of them besides.
  __device__ __forceinline__ float gradient(const RouteRule& rule, float dot) const {
    return prob * (rule.is_normalized ? prob_grad - dot : prob_grad);
  }
};

}  // namespace gg::cuda
