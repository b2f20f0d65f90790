// route on CUDA. A warp, or a quarter of one where E <= 32, holds a token's
// logits in registers; its topK experts are taken one by one, by a maximum over
// the registers and then over the lanes. Counts are integers in shared memory;
// a block's counts and sums go to the workspace, and a second small kernel adds
// the blocks in order: no memory needs to be zeroed and results repeat bit for
// bit. Launched by route.cu.
#pragma once

#include <climits>

#include "base/math.h"
#include "cuda/routing/route_row.cuh"

namespace gg::cuda {

struct RouteGroups {
  int num_groups;
  int group_topk;
  int group_size;
  int num_best;  // whose sum is a group's score
  int magic;     // expert * magic >> 20 is its group, for experts below 1024

  __device__ __forceinline__ int of(int expert) const { return (expert * magic) >> 20; }
};

struct RouteArgs {
  const void* logits;        // [T, E]
  const float* expert_bias;  // [E] or null
  float* probs;              // [T, topk]
  int* indices;              // [T, topk]
  int num_experts;
  RoutePieces pieces;
  RouteRule rule;
  RouteGroups groups;
  bool has_sums;
  int* counts;  // scratch [S * pieces_per_sequence, E + 1]: of experts, then invalid tokens
  float* sums;  // scratch, likewise: of normalized scores, then of logsumexp^2
};

// A token's row of shared memory: a group's keys lie one word further apart than
// they are many, so that lanes that read a group each meet no bank conflict.
GG_HOST_DEVICE int route_row_words(int num_experts) { return num_experts + kMaxRouteGroups; }

// Larger floats have larger keys; NaN has the largest, both zeros the same; 0 is
// the key of no float: of experts that cannot be chosen (any more).
__device__ __forceinline__ uint32_t sort_key(float value) {
  if (value != value) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(value == 0.0f ? 0.0f : value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_sort_key(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

// Takes the best of keys v * kLanes + lane out of all lanes' and says which it was.
template <int kLanes, int kCount>
__device__ __forceinline__ int take_best(uint32_t (&keys)[kCount], int lane) {
  using Group = Lanes<kLanes>;
  uint32_t best = keys[0];
#pragma unroll
  for (int v = 1; v < kCount; ++v) best = keys[v] > best ? keys[v] : best;
  best = Group::max(best);
  int index = INT_MAX;
#pragma unroll
  for (int v = kCount - 1; v >= 0; --v) {  // ends with the lowest
    if (keys[v] == best) index = v * kLanes + lane;
  }
  index = Group::min(index);
#pragma unroll
  for (int v = 0; v < kCount; ++v) {
    if (index == v * kLanes + lane) keys[v] = 0;
  }
  return index;
}

// Sum of the `count` best of size keys, best first, lowest index first.
__device__ __forceinline__ float sum_of_best(const uint32_t* keys, int size, int count) {
  float sum = 0.0f;
  uint32_t last_key = 0xffffffffu;
  int last = -1;
  for (int n = 0; n < count; ++n) {
    uint32_t best_key = 0;
    int best = size;
    for (int i = 0; i < size; ++i) {
      const bool is_left = keys[i] < last_key || (keys[i] == last_key && i > last);
      if (is_left && keys[i] > best_key) {
        best_key = keys[i];
        best = i;
      }
    }
    sum += from_sort_key(best_key);
    last_key = best_key;
    last = best;
  }
  return sum;
}

template <typename T, int kLanes, int kValues>
struct RouteTask {
  using Group = Lanes<kLanes>;
  static constexpr int kSlots = kRouteSlots<kLanes, kValues>;

  const RouteArgs& args;
  int* counts;     // shared [E + 1]
  uint32_t* rows;  // shared [tokens of a block, route_row_words]
  int lane = threadIdx.x % kLanes;
  float score_sums[kValues] = {};
  float z_sum = 0.0f;

  __device__ uint32_t* row_words(int row) const {
    return rows + row * route_row_words(args.num_experts);
  }

  __device__ __forceinline__ void route(int64_t t, bool is_token) {
    const T* logits = static_cast<const T*>(args.logits) + t * args.num_experts;
    RouteRow<kLanes, kValues> row;
    row.load(logits, args.num_experts, lane, is_token);
    count_invalid(row);
    if (needs_softmax()) row.sum_softmax();
    if (args.has_sums) add_to_sums(row);
    uint32_t keys[kValues];
    make_keys(row, keys);
    if (args.groups.num_groups > 1) close_groups(keys);
    choose(logits, t, is_token, row, keys);
  }

  __device__ __forceinline__ bool chooses_by_scores() const {
    return args.expert_bias != nullptr || args.groups.num_groups > 1;
  }

  __device__ __forceinline__ bool needs_softmax() const {
    return args.has_sums || args.rule.needs_softmax_of_all() ||
           (chooses_by_scores() && !args.rule.is_sigmoid && args.rule.pre_softmax);
  }

  __device__ __forceinline__ void count_invalid(const RouteRow<kLanes, kValues>& row) {
    bool is_invalid = false;
#pragma unroll
    for (int v = 0; v < kValues; ++v) is_invalid |= !(row.x[v] < INFINITY);
    const unsigned votes = __ballot_sync(Group::kWarp, is_invalid) >> (threadIdx.x % 32 - lane);
    if (lane == 0 && (votes & (Group::kWarp >> (32 - kLanes))) != 0) {
      atomicAdd(&counts[args.num_experts], 1);
    }
  }

  // A row past the end and an expert past the last have logits of -inf: they add 0.
  __device__ __forceinline__ void add_to_sums(RouteRow<kLanes, kValues>& row) {
    if (args.rule.is_sigmoid) row.sum_sigmoid();
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      score_sums[v] += row.normalized(args.rule.is_sigmoid, row.x[v]);
    }
    const float z = row.logsumexp();
    z_sum += z * z;
  }

  __device__ __forceinline__ void make_keys(const RouteRow<kLanes, kValues>& row,
                                            uint32_t (&keys)[kValues]) const {
    const bool by_scores = chooses_by_scores();
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = v * kLanes + lane;
      float key = row.x[v];
      if (by_scores && e < args.num_experts && key != -INFINITY) {
        if (args.rule.is_sigmoid) {
          key = sigmoid(key);
        } else if (args.rule.pre_softmax) {
          key = row.softmax(key);
        }
        if (args.expert_bias != nullptr) key += args.expert_bias[e];
      }
      keys[v] = e < args.num_experts ? sort_key(key) : 0;
    }
  }

  __device__ __forceinline__ void close_groups(uint32_t (&keys)[kValues]) const {
    const RouteGroups& groups = args.groups;
    uint32_t* words = row_words(threadIdx.x / kLanes);
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = v * kLanes + lane;
      if (e < args.num_experts) words[e + groups.of(e)] = keys[v];
    }
    __syncwarp();
    uint32_t scores[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int g = s * kLanes + lane;
      scores[s] = 0;
      if (g < groups.num_groups) {
        const uint32_t* members = words + g * (groups.group_size + 1);
        scores[s] = sort_key(sum_of_best(members, groups.group_size, groups.num_best));
      }
    }
    uint32_t open = 0;
    for (int n = 0; n < groups.group_topk; ++n) open |= 1u << take_best<kLanes>(scores, lane);
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int e = v * kLanes + lane;
      if (e < args.num_experts && (open >> groups.of(e) & 1) == 0) keys[v] = 0;
    }
    __syncwarp();  // before the next token's keys
  }

  __device__ __forceinline__ void choose(const T* logits, int64_t t, bool is_token,
                                         const RouteRow<kLanes, kValues>& row,
                                         uint32_t (&keys)[kValues]) {
    const int topk = args.rule.topk;
    int chosen[kSlots];
    float chosen_logits[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      chosen[s] = 0;
      for (int j = 0; j < kLanes && s * kLanes + j < topk; ++j) {
        const int index = take_best<kLanes>(keys, lane);
        if (j == lane) chosen[s] = index;
      }
      const bool is_chosen = is_token && s * kLanes + lane < topk;
      chosen_logits[s] = is_chosen ? to_float(logits[chosen[s]]) : -INFINITY;
    }
    float weights[kSlots];
    choose_weights(args.rule, row, chosen_logits, weights);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int k = s * kLanes + lane;
      if (!is_token || k >= topk) continue;
      args.probs[t * topk + k] = weights[s] * args.rule.scaling_factor;
      args.indices[t * topk + k] = chosen[s];
      atomicAdd(&counts[chosen[s]], 1);
    }
  }

  // The block's counts and sums to the workspace; by all threads.
  __device__ __forceinline__ void store_totals() {
    const int num_columns = args.num_experts + 1;
    const int64_t start = static_cast<int64_t>(blockIdx.x) * num_columns;
    __syncthreads();  // all tokens are counted; rows are free
    for (int c = threadIdx.x; c < num_columns; c += kRouteThreads) {
      args.counts[start + c] = counts[c];
    }
    if (!args.has_sums) return;
    float* own = reinterpret_cast<float*>(row_words(threadIdx.x / 32));
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const float sum = Group::sum_rows(score_sums[v]);
      const int e = v * kLanes + lane;
      if (threadIdx.x % 32 < kLanes && e < args.num_experts) own[e] = sum;
    }
    const float z = Group::sum_rows(z_sum);
    if (threadIdx.x % 32 == 0) own[args.num_experts] = z;
    __syncthreads();
    for (int c = threadIdx.x; c < num_columns; c += kRouteThreads) {
      float sum = 0.0f;
      for (int w = 0; w < kRouteWarps; ++w) sum += reinterpret_cast<float*>(row_words(w))[c];
      args.sums[start + c] = sum;
    }
  }
};

// Registers for four blocks on a multiprocessor up to 256 experts.
template <int kValues>
inline constexpr int kRouteBlocksPerSm = kValues <= 8 ? 4 : (kValues == 16 ? 2 : 1);

template <typename T, int kLanes, int kValues>
__global__ void __launch_bounds__(kRouteThreads, kRouteBlocksPerSm<kValues>)
    route_kernel(const RouteArgs args) {
  extern __shared__ int shared[];
  for (int c = threadIdx.x; c <= args.num_experts; c += kRouteThreads) shared[c] = 0;
  __syncthreads();
  RouteTask<T, kLanes, kValues> task{args, shared,
                                     reinterpret_cast<uint32_t*>(shared + args.num_experts + 1)};
  args.pieces.for_tokens<kLanes>([&](int64_t t, bool is_token) { task.route(t, is_token); });
  task.store_totals();
}

struct RouteTotalsArgs {
  const int* counts;  // [S * num_pieces, E + 1]
  const float* sums;  // likewise, or null
  int num_pieces;     // of a sequence; 0 where there are no tokens
  int num_experts;
  int* tokens_per_expert;  // [S, E]
  int* invalid_tokens;     // [S] or null
  float* score_sums;       // [S, E] or null
  float* z_sums;           // [S] or null
};

inline constexpr int kTotalsRows = 16;

// Block (sequence, tile of 32 columns): adds the sequence's pieces in order.
__global__ void __launch_bounds__(32 * kTotalsRows) route_totals_kernel(RouteTotalsArgs args) {
  __shared__ int shared_counts[kTotalsRows][32];
  __shared__ float shared_sums[kTotalsRows][32];
  const int num_columns = args.num_experts + 1;
  const int column = blockIdx.y * 32 + threadIdx.x;
  const int64_t sequence = blockIdx.x;
  int count = 0;
  float sum = 0.0f;
  if (column < num_columns) {
#pragma unroll 4
    for (int i = threadIdx.y; i < args.num_pieces; i += kTotalsRows) {
      const int64_t at = (sequence * args.num_pieces + i) * num_columns + column;
      count += args.counts[at];
      if (args.sums != nullptr) sum += args.sums[at];
    }
  }
  shared_counts[threadIdx.y][threadIdx.x] = count;
  shared_sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= num_columns) return;
  for (int row = 1; row < kTotalsRows; ++row) {
    count += shared_counts[row][threadIdx.x];
    sum += shared_sums[row][threadIdx.x];
  }
  if (column < args.num_experts) {
    args.tokens_per_expert[sequence * args.num_experts + column] = count;
    if (args.score_sums != nullptr) args.score_sums[sequence * args.num_experts + column] = sum;
  } else {
    if (args.invalid_tokens != nullptr) args.invalid_tokens[sequence] = count;
    if (args.z_sums != nullptr) args.z_sums[sequence] = sum;
  }
}

}  // namespace gg::cuda
