// Gradient of route where every logit gets one: softmax over all experts, or the
// sums of the losses. Logits are read once and the gradient is stored once; scores
// are computed again in registers, and what chosen experts get besides waits for
// them in shared memory, in zeros. Launched by route_bwd.cu.
#pragma once

#include "cuda/routing/route_bwd.cuh"

namespace gg::cuda {

inline constexpr int kRouteBwdWarps = 8;

template <typename T, int kLanes, int kValues>
struct RouteBwdTask {
  using Group = Lanes<kLanes>;
  static constexpr int kSlots = kRouteSlots<kLanes, kValues>;

  const RouteBwdArgs& args;
  float* through_weights;  // shared [kLanes * kValues], this row's: zeros between tokens
  int lane = threadIdx.x % kLanes;
  float z_grad = 0.0f;
  float sums_grad[kValues] = {};  // this lane's, of this sequence

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int v = 0; v < kValues; ++v) through_weights[v * kLanes + lane] = 0.0f;
    const int sequence = args.pieces.sequence();
    if (args.z_sums_grad != nullptr) z_grad = args.z_sums_grad[sequence];
    if (args.score_sums_grad == nullptr) return;
    const float* grads = args.score_sums_grad + static_cast<int64_t>(sequence) * args.num_experts;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = lane * kValues + v;
      if (e < args.num_experts) sums_grad[v] = grads[e];
    }
  }

  __device__ __forceinline__ bool has_sums() const { return args.score_sums_grad != nullptr; }

  __device__ __forceinline__ void backward(int64_t t, bool is_token) const {
    const RouteRule& rule = args.rule;
    RouteRow<kLanes, kValues> row;
    const int64_t start = t * args.num_experts;
    row.load(static_cast<const T*>(args.logits) + start, args.num_experts, lane, is_token,
             args.moves_chunks);
    WeighedChoice choices[kSlots];
    load(t, is_token, choices);
    const bool has_z = args.z_sums_grad != nullptr;
    if (rule.needs_softmax_of_all() || has_z || (has_sums() && !rule.is_sigmoid)) {
      row.sum_softmax();
    }
    const float sums_dot = has_sums() ? dot_sums(row) : 0.0f;
    // What multiplies the softmax of every logit.
    float softmax_scale = has_z ? 2.0f * row.logsumexp() * z_grad : 0.0f;
    const float dot = weigh(choices);
    if (rule.needs_softmax_of_all()) softmax_scale -= dot;
    __syncwarp();  // what the chosen get is there
    float grads[kValues];
    take(grads);
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      grads[v] = gradient(row, row.x[v], grads[v], sums_grad[v] - sums_dot, softmax_scale);
    }
    if (is_token) {
      row.store(static_cast<T*>(args.logits_grad) + start, args.num_experts, lane,
                args.moves_chunks, [&](int v) { return grads[v]; });
    }
    __syncwarp();  // all are taken
    forget(choices);
    __syncwarp();  // before the next token's
  }

  __device__ __forceinline__ void load(int64_t t, bool is_token,
                                       WeighedChoice (&choices)[kSlots]) const {
    if (args.probs_grad == nullptr) return;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int k = s * kLanes + lane;
      if (is_token && k < args.rule.topk) choices[s].load(args, t * args.rule.topk + k);
      choices[s].forget_unless_below(args.num_experts);
    }
  }

  __device__ __forceinline__ float dot_sums(RouteRow<kLanes, kValues>& row) const {
    if (args.rule.is_sigmoid) row.sum_sigmoid();
    float dot = 0.0f;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      dot += row.normalized(args.rule.is_sigmoid, row.x[v]) * sums_grad[v];
    }
    return Group::sum(dot);
  }

  // Leaves in shared memory what each chosen logit gets through its weight; returns
  // the token's dot product.
  __device__ __forceinline__ float weigh(const WeighedChoice (&choices)[kSlots]) const {
    if (args.probs_grad == nullptr) return 0.0f;
    float dot = 0.0f;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) dot += choices[s].product(args.rule);
    dot = Group::sum(dot);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (choices[s].expert < 0) continue;
      through_weights[choices[s].expert] = choices[s].gradient(args.rule, dot);
    }
    return dot;
  }

  __device__ __forceinline__ void take(float (&grads)[kValues]) const {
    constexpr int kChunk = kRouteChunk<float, kValues>;
    using Chunk = RouteChunk<float, kChunk>;
#pragma unroll
    for (int c = 0; c < kValues; c += kChunk) {
      const Chunk chunk = *reinterpret_cast<const Chunk*>(through_weights + lane * kValues + c);
#pragma unroll
      for (int v = 0; v < kChunk; ++v) grads[c + v] = chunk.values[v];
    }
  }

  __device__ __forceinline__ void forget(const WeighedChoice (&choices)[kSlots]) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (choices[s].expert >= 0) through_weights[choices[s].expert] = 0.0f;
    }
  }

  // Of one logit; sums_change: of its normalized score, less the row's mean (0
  // without sums).
  __device__ __forceinline__ float gradient(const RouteRow<kLanes, kValues>& row, float x,
                                            float through_weight, float sums_change,
                                            float softmax_scale) const {
    if (!args.rule.is_sigmoid)
      return through_weight + row.softmax(x) * (softmax_scale + sums_change);
    if (has_sums()) through_weight += row.normalized(true, x) * sums_change;
    const float value = through_weight == 0.0f ? 0.0f : through_weight * sigmoid(-x);
    return softmax_scale == 0.0f ? value : value + row.softmax(x) * softmax_scale;
  }
};

// Registers to hold a row, and no fewer.
template <int kValues>
inline constexpr int kRouteBwdBlocksPerSm = kValues <= 8 ? 4 : (kValues == 16 ? 2 : 1);

template <typename T, int kLanes, int kValues>
__global__ void __launch_bounds__(kRouteBwdWarps * 32, kRouteBwdBlocksPerSm<kValues>)
    route_bwd_dense_kernel(const RouteBwdArgs args) {
  __shared__ float4 shared[kRouteBwdWarps * 32 * kValues / 4];
  float* own = reinterpret_cast<float*>(shared) + threadIdx.x / kLanes * (kLanes * kValues);
  RouteBwdTask<T, kLanes, kValues> task{args, own};
  task.start();
  __syncwarp();  // zeros
  args.pieces.for_tokens<kLanes, kRouteBwdWarps>(
      [&](int64_t t, bool is_token) { task.backward(t, is_token); });
}

}  // namespace gg::cuda
