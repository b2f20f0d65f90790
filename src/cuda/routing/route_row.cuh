// One token's logits in the registers of its lanes, its scores, and its chosen
// experts, one or more to a lane: what route.cuh and route_bwd.cuh share. The
// rules are those of grouped_gemm/route.h; the plain loops: src/cpu/route_row.h.
#pragma once

#include <cfloat>

#include "cuda/common/lanes.cuh"
#include "cuda/common/number.cuh"
#include "grouped_gemm/route.h"

namespace gg::cuda {

// In a block of the forward. Fewer, larger blocks leave fewer counts to add up;
// beyond 256 experts registers do not suffice.
template <int kValues>
inline constexpr int kRouteWarps = kValues <= 8 ? 16 : 8;

// Values of a lane that one access moves.
template <typename T, int kValues>
inline constexpr int kRouteChunk = kValues * sizeof(T) <= 16 ? kValues : 16 / sizeof(T);

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) RouteChunk {
  T values[kCount];
};

// Chosen experts of a token that one of kLanes lanes keeps: k = slot * kLanes + lane.
template <int kLanes, int kValues>
inline constexpr int kRouteSlots =
    kValues < kMaxRouteTopk / kLanes ? kValues : kMaxRouteTopk / kLanes;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float log_sigmoid(float x) {
  return (x < 0.0f ? x : (x != x ? x : 0.0f)) - log1pf(expf(-fabsf(x)));
}

// x[v] is the logit of expert lane * kValues + v, -inf beyond the last expert.
template <int kLanes, int kValues>
struct RouteRow {
  using Group = Lanes<kLanes>;

  float x[kValues];
  float largest;      // 0 where every logit is -inf
  float softmax_sum;  // of exp(x - largest)
  float sigmoid_sum;

  // by_chunks: every row is a multiple of kRouteChunk values, and so aligned.
  template <typename T>
  __device__ __forceinline__ void load(const T* row, int num_experts, int lane, bool is_token,
                                       bool by_chunks) {
    constexpr int kChunk = kRouteChunk<T, kValues>;
    const int first = lane * kValues;
    const int end = is_token ? num_experts : 0;
    if (by_chunks) {
      using Chunk = RouteChunk<T, kChunk>;
#pragma unroll
      for (int c = 0; c < kValues; c += kChunk) {
#pragma unroll
        for (int v = 0; v < kChunk; ++v) x[c + v] = -INFINITY;
        if (first + c >= end) continue;
        const Chunk chunk = *reinterpret_cast<const Chunk*>(row + first + c);
#pragma unroll
        for (int v = 0; v < kChunk; ++v) x[c + v] = to_float(chunk.values[v]);
      }
    } else {
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        x[v] = first + v < end ? to_float(row[first + v]) : -INFINITY;
      }
    }
  }

  // value_of(v) to every expert's element.
  template <typename T, typename ValueOf>
  static __device__ __forceinline__ void store(T* row, int num_experts, int lane, bool by_chunks,
                                               const ValueOf& value_of) {
    constexpr int kChunk = kRouteChunk<T, kValues>;
    const int first = lane * kValues;
    if (by_chunks) {
      using Chunk = RouteChunk<T, kChunk>;
#pragma unroll
      for (int c = 0; c < kValues; c += kChunk) {
        Chunk chunk;
#pragma unroll
        for (int v = 0; v < kChunk; ++v) chunk.values[v] = from_float<T>(value_of(c + v));
        if (first + c < num_experts) *reinterpret_cast<Chunk*>(row + first + c) = chunk;
      }
    } else {
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (first + v < num_experts) row[first + v] = from_float<T>(value_of(v));
      }
    }
  }

  __device__ __forceinline__ void sum_softmax() {
    float top = x[0];
#pragma unroll
    for (int v = 1; v < kValues; ++v) top = fmaxf(top, x[v]);
    top = Group::max(top);
    largest = top == -INFINITY ? 0.0f : top;
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kValues; ++v) sum += expf(x[v] - largest);
    softmax_sum = Group::sum(sum);
  }

  __device__ __forceinline__ void sum_sigmoid() {
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kValues; ++v) sum += sigmoid(x[v]);
    sigmoid_sum = Group::sum(sum);
  }

  __device__ __forceinline__ float softmax(float logit) const {
    return expf(logit - largest) * (1.0f / positive(softmax_sum));
  }
  // Sums to 1 over the experts.
  __device__ __forceinline__ float normalized(bool is_sigmoid, float logit) const {
    return is_sigmoid ? sigmoid(logit) * (1.0f / positive(sigmoid_sum)) : softmax(logit);
  }
  __device__ __forceinline__ float logsumexp() const {  // 0 for a row of -inf; NaN stays NaN
    return softmax_sum == 0.0f ? 0.0f : largest + logf(softmax_sum);
  }

  // NaN passes through, as it should; fmaxf would hide it.
  static __device__ __forceinline__ float positive(float sum) {
    return sum < FLT_MIN ? FLT_MIN : sum;
  }
};

struct RouteRule {
  int topk;
  bool is_sigmoid;
  bool pre_softmax;
  bool is_normalized;  // weights sum to scaling_factor
  float scaling_factor;

  __host__ __device__ bool needs_softmax_of_all() const { return !is_sigmoid && !is_normalized; }
};

inline RouteRule make_rule(const RouteOptions& o) {
  const bool is_sigmoid = o.score_function == ScoreFunction::kSigmoid;
  return {.topk = o.topk,
          .is_sigmoid = is_sigmoid,
          .pre_softmax = o.pre_softmax,
          .is_normalized = o.normalize_topk || (!is_sigmoid && !o.pre_softmax),
          .scaling_factor = static_cast<float>(o.scaling_factor)};
}

// Over the chosen, which are lanes 0 to 7's where they are few; right in those lanes.
template <int kLanes>
__device__ __forceinline__ float sum_chosen(int topk, float value) {
  return topk <= 8 ? Lanes<8>::sum(value) : Lanes<kLanes>::sum(value);
}
template <int kLanes>
__device__ __forceinline__ float max_chosen(int topk, float value) {
  return topk <= 8 ? Lanes<8>::max(value) : Lanes<kLanes>::max(value);
}

// Weights of the chosen experts from their logits; slots without one hold -inf
// and get a weight of 0.
template <int kLanes, int kValues, int kSlots>
__device__ __forceinline__ void choose_weights(const RouteRule& rule,
                                               const RouteRow<kLanes, kValues>& row,
                                               const float (&logits)[kSlots],
                                               float (&weights)[kSlots]) {
  if (!rule.is_normalized) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      weights[s] = rule.is_sigmoid ? sigmoid(logits[s]) : row.softmax(logits[s]);
    }
    return;
  }
  float top = -INFINITY;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    weights[s] = rule.is_sigmoid ? log_sigmoid(logits[s]) : logits[s];
    top = fmaxf(top, weights[s]);
  }
  top = max_chosen<kLanes>(rule.topk, top);
  if (top == -INFINITY) top = 0.0f;
  float sum = 0.0f;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    weights[s] = expf(weights[s] - top);
    sum += weights[s];
  }
  const float scale =
      1.0f / RouteRow<kLanes, kValues>::positive(sum_chosen<kLanes>(rule.topk, sum));
#pragma unroll
  for (int s = 0; s < kSlots; ++s) weights[s] *= scale;
}

// Tokens of a sequence that one block takes, the same on every GPU: every
// pieces_per_sequence-th group of kWarps * kRowsPerWarp neighbours; or, where a row
// map takes the block's counts over, as many such groups as make tokens_per_piece
// neighbours.
struct RoutePieces {
  int64_t tokens_per_sequence;
  int pieces_per_sequence;
  int64_t tokens_per_piece = 0;

  // visit(token, is_token) by whole warps; false: this lane's row is past the end.
  template <int kLanes, int kWarps, typename Visit>
  __device__ __forceinline__ void for_tokens(const Visit& visit) const {
    constexpr int kRowsPerWarp = Lanes<kLanes>::kRowsPerWarp;
    const int64_t start = static_cast<int64_t>(sequence()) * tokens_per_sequence;
    constexpr int kGroup = kWarps * kRowsPerWarp;
    const bool are_neighbours = tokens_per_piece > 0;
    const int64_t piece = blockIdx.x % pieces_per_sequence;
    const int64_t begin = piece * (are_neighbours ? tokens_per_piece : kGroup);
    const int64_t end =
        are_neighbours ? min(begin + tokens_per_piece, tokens_per_sequence) : tokens_per_sequence;
    const int64_t step = are_neighbours ? kGroup : int64_t{pieces_per_sequence} * kGroup;
    for (int64_t first = begin + threadIdx.x / 32 * kRowsPerWarp; first < end; first += step) {
      const int64_t t = first + threadIdx.x % 32 / kLanes;
      visit(start + t, t < end);
    }
  }

  __device__ __forceinline__ int sequence() const { return blockIdx.x / pieces_per_sequence; }
};

}  // namespace gg::cuda
