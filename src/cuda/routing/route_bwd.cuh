// Gradient of route on CUDA, one pass: the scores are computed again from the
// logits. A dense row is stored first, for the gradients that every logit takes
// part in (softmax over all experts, the sums); then the chosen experts' elements
// are stored again, whole. Where only the chosen logits get a gradient the row is
// zeros, and no other logit is read. Launched by route_bwd.cu; loops: src/cpu/route_bwd.cc.
#pragma once

#include "cuda/routing/route_row.cuh"

namespace gg::cuda {

struct RouteBwdArgs {
  const void* logits;            // [T, E]
  const int* indices;            // [T, topk]
  const float* probs_grad;       // [T, topk] or null
  const float* score_sums_grad;  // [S, E] or null
  const float* z_sums_grad;      // [S] or null
  void* logits_grad;             // [T, E]
  int num_experts;
  bool moves_chunks;  // of logits and their gradient: 16 bytes, or all of a lane's values
  RoutePieces pieces;
  RouteRule rule;

  // Whether every logit gets a gradient through the weights.
  __host__ __device__ bool spreads() const {
    return rule.needs_softmax_of_all() && probs_grad != nullptr;
  }
  __host__ __device__ bool is_dense() const {
    return spreads() || score_sums_grad != nullptr || z_sums_grad != nullptr;
  }
};

template <typename T, int kLanes, int kValues>
struct RouteBwdTask {
  using Group = Lanes<kLanes>;
  static constexpr int kSlots = kRouteSlots<kLanes, kValues>;

  const RouteBwdArgs& args;
  int lane = threadIdx.x % kLanes;
  const float* sums_grad = nullptr;  // [E], of this sequence
  float z_grad = 0.0f;
  float own_sums_grad[kValues] = {};

  __device__ __forceinline__ void load_sequence() {
    const int sequence = args.pieces.sequence();
    if (args.z_sums_grad != nullptr) z_grad = args.z_sums_grad[sequence];
    if (args.score_sums_grad == nullptr) return;
    sums_grad = args.score_sums_grad + static_cast<int64_t>(sequence) * args.num_experts;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = lane * kValues + v;
      if (e < args.num_experts) own_sums_grad[v] = sums_grad[e];
    }
  }

  // What every logit of a token gets: softmax(x) * softmax_scale, plus the
  // gradient of its normalized score.
  struct Dense {
    RouteRow<kLanes, kValues> row;
    bool has_sums;
    bool is_sigmoid;
    float softmax_scale = 0.0f;
    float sums_dot = 0.0f;

    __device__ __forceinline__ float at(float x, float sums_grad) const {
      const float change = sums_grad - sums_dot;  // 0 without sums
      if (!is_sigmoid) return row.softmax(x) * (softmax_scale + change);
      const float value = softmax_scale == 0.0f ? 0.0f : row.softmax(x) * softmax_scale;
      if (!has_sums) return value;
      return value + row.normalized(true, x) * change * sigmoid(-x);
    }
  };

  __device__ __forceinline__ void backward(int64_t t, bool is_token) const {
    const T* logits = static_cast<const T*>(args.logits) + t * args.num_experts;
    T* grad = static_cast<T*>(args.logits_grad) + t * args.num_experts;
    const RouteRule& rule = args.rule;
    const bool has_sums = sums_grad != nullptr;
    const bool has_z = args.z_sums_grad != nullptr;
    Dense dense{.has_sums = has_sums, .is_sigmoid = rule.is_sigmoid};
    dense.row.load(logits, args.num_experts, lane, is_token, args.moves_chunks);
    if (rule.needs_softmax_of_all() || has_z || (has_sums && !rule.is_sigmoid)) {
      dense.row.sum_softmax();
    }
    if (has_sums) dense.sums_dot = dot_sums(dense.row);
    if (has_z) dense.softmax_scale = 2.0f * dense.row.logsumexp() * z_grad;

    int chosen[kSlots];
    float chosen_logits[kSlots];
    float chosen_grads[kSlots];
    load_chosen(logits, t, is_token, chosen, chosen_logits);
    const float dot = weigh(dense.row, t, chosen, chosen_logits, chosen_grads);
    if (args.spreads()) dense.softmax_scale -= dot;

    if (is_token) {
      dense.row.store(grad, args.num_experts, lane, args.moves_chunks,
                      [&](int v) { return dense.at(dense.row.x[v], own_sums_grad[v]); });
    }
    __syncwarp();  // orders the two stores of a chosen expert's element
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int e = chosen[s];
      if (e < 0) continue;
      const float rest = dense.at(chosen_logits[s], has_sums ? sums_grad[e] : 0.0f);
      grad[e] = from_float<T>(rest + chosen_grads[s]);
    }
  }

  // Without reading the row: its zeros are on their way before anything arrives.
  __device__ __forceinline__ void backward_of_chosen(int64_t t, bool is_token) const {
    const T* logits = static_cast<const T*>(args.logits) + t * args.num_experts;
    T* grad = static_cast<T*>(args.logits_grad) + t * args.num_experts;
    using Row = RouteRow<kLanes, kValues>;
    if (is_token) {
      Row::store(grad, args.num_experts, lane, args.moves_chunks, [](int) { return 0.0f; });
    }
    int chosen[kSlots];
    float chosen_logits[kSlots];
    float chosen_grads[kSlots];
    load_chosen(logits, t, is_token, chosen, chosen_logits);
    Row row;  // its sums weigh nothing here, except weights that nobody asks for
    row.largest = 0.0f;
    row.softmax_sum = 1.0f;
    weigh(row, t, chosen, chosen_logits, chosen_grads);
    __syncwarp();  // orders the two stores of a chosen expert's element
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (chosen[s] >= 0) grad[chosen[s]] = from_float<T>(chosen_grads[s]);
    }
  }

  __device__ __forceinline__ float dot_sums(RouteRow<kLanes, kValues>& row) const {
    if (args.rule.is_sigmoid) row.sum_sigmoid();
    float dot = 0.0f;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      dot += row.normalized(args.rule.is_sigmoid, row.x[v]) * own_sums_grad[v];
    }
    return Group::sum(dot);
  }

  // chosen: -1 where this lane has none (or an id that is no expert's).
  __device__ __forceinline__ void load_chosen(const T* logits, int64_t t, bool is_token,
                                              int (&chosen)[kSlots],
                                              float (&chosen_logits)[kSlots]) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int k = s * kLanes + lane;
      chosen[s] = is_token && k < args.rule.topk ? args.indices[t * args.rule.topk + k] : -1;
      if (chosen[s] >= args.num_experts || chosen[s] < 0) chosen[s] = -1;
      chosen_logits[s] = chosen[s] >= 0 ? to_float(logits[chosen[s]]) : -INFINITY;
    }
  }

  // The gradient that each chosen logit gets from its weight alone; returns the
  // sum of weight * gradient over the chosen.
  __device__ __forceinline__ float weigh(const RouteRow<kLanes, kValues>& row, int64_t t,
                                         const int (&chosen)[kSlots],
                                         const float (&chosen_logits)[kSlots],
                                         float (&grads)[kSlots]) const {
    const RouteRule& rule = args.rule;
    float weights[kSlots];
    choose_weights(rule, row, chosen_logits, weights);
    float dot = 0.0f;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const bool has_grad = chosen[s] >= 0 && args.probs_grad != nullptr;
      const int k = s * kLanes + lane;
      grads[s] = has_grad ? args.probs_grad[t * rule.topk + k] * rule.scaling_factor : 0.0f;
      if (chosen[s] >= 0) dot += weights[s] * grads[s];
    }
    dot = Group::sum(dot);  // in every lane: the dense row takes it
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      grads[s] = weights[s] * (rule.is_normalized ? grads[s] - dot : grads[s]);
      if (rule.is_sigmoid) grads[s] *= sigmoid(-chosen_logits[s]);
      if (args.probs_grad == nullptr) grads[s] = 0.0f;  // NaN weights too
    }
    return dot;
  }
};

// Registers to hold a row, and no fewer.
template <int kValues>
inline constexpr int kRouteBwdBlocksPerSm = kValues <= 8 ? 4 : (kValues == 16 ? 2 : 1);

template <typename T, int kLanes, int kValues, bool kDense>
__global__ void __launch_bounds__(kRouteBwdWarps * 32, kRouteBwdBlocksPerSm<kValues>)
    route_bwd_kernel(const RouteBwdArgs args) {
  RouteBwdTask<T, kLanes, kValues> task{args};
  if constexpr (kDense) task.load_sequence();
  args.pieces.for_tokens<kLanes, kRouteBwdWarps>([&](int64_t t, bool is_token) {
    if constexpr (kDense) {
      task.backward(t, is_token);
    } else {
      task.backward_of_chosen(t, is_token);
    }
  });
}

}  // namespace gg::cuda
