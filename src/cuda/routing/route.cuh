// route on CUDA. A warp, or a quarter of one where E <= 32, holds a token's
// logits in registers; its topK experts are taken one by one (route_topk.cuh).
// Counts are integers in shared memory; a block's counts and sums go to the
// workspace, and a second small kernel (route_totals.cuh) adds the blocks in
// order: no memory needs to be zeroed and results repeat bit for bit. Where a row map
// is wanted and no sums, its kernel adds up the counts instead. Launched by route.cu.
#pragma once

#include "base/math.h"
#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/slot_counts.cuh"
#include "cuda/routing/route_row.cuh"
#include "cuda/routing/route_topk.cuh"

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
  bool counts_invalid;
  bool reads_chunks;       // of logits: 16 bytes, or all of a lane's values
  int* counts;             // scratch [S * pieces_per_sequence, E + 1]: of experts, then invalid
                           // tokens; null where nobody adds them up
  float* sums;             // scratch, likewise: of normalized scores, then of logsumexp^2
  SlotCounts slot_counts;  // scratch where the row map takes the blocks' counts over
};

// A token's row of shared memory: a group's keys lie one word further apart than
// they are many, so that lanes that read a group each meet no bank conflict.
GG_HOST_DEVICE int route_row_words(int num_experts) { return num_experts + kMaxRouteGroups; }

template <typename T, int kLanes, int kValues>
struct RouteTask {
  using Group = Lanes<kLanes>;
  static constexpr int kSlots = kRouteSlots<kLanes, kValues>;
  static constexpr int kThreads = kRouteWarps<kValues> * 32;

  const RouteArgs& args;
  RouteChoice* choices;  // shared [topk], of this token
  int* counts;           // shared [E + 1]
  uint32_t* rows;        // shared [tokens of a block, route_row_words]
  int lane = threadIdx.x % kLanes;
  float score_sums[kValues] = {};
  float z_sum = 0.0f;

  __device__ uint32_t* row_words(int row) const {
    return rows + row * route_row_words(args.num_experts);
  }

  __device__ __forceinline__ void route(int64_t t, bool is_token) {
    const T* logits = static_cast<const T*>(args.logits) + t * args.num_experts;
    RouteRow<kLanes, kValues> row;
    row.load(logits, args.num_experts, lane, is_token, args.reads_chunks);
    if (args.counts_invalid) count_invalid(row);
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
      const int e = lane * kValues + v;
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
      const int e = lane * kValues + v;
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
      const int e = lane * kValues + v;
      if (e < args.num_experts && (open >> groups.of(e) & 1) == 0) keys[v] = 0;
    }
    __syncwarp();  // before the next token's keys
  }

  __device__ __forceinline__ void choose(const T* logits, int64_t t, bool is_token,
                                         const RouteRow<kLanes, kValues>& row,
                                         const uint32_t (&keys)[kValues]) {
    const int topk = args.rule.topk;
    int chosen[kSlots];
    float chosen_logits[kSlots];
    choose_best<kLanes>(keys, topk, lane, choices);
    __syncwarp();
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int k = s * kLanes + lane;
      chosen[s] = 0;
      chosen_logits[s] = -INFINITY;
      if (!is_token || k >= topk) continue;
      const RouteChoice choice = choices[k];
      chosen[s] = choice.expert;
      chosen_logits[s] =
          chooses_by_scores() ? to_float(logits[choice.expert]) : from_sort_key(choice.key);
    }
    __syncwarp();  // before the next token's choices
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

  // The block's counts to the row map's table; by all threads.
  __device__ __forceinline__ void store_slot_counts() {
    const SlotCounts& table = args.slot_counts;
    const int range = static_cast<int>(blockIdx.x);
    __syncthreads();  // all tokens are counted
    for (int bin = threadIdx.x; bin < table.num_bins; bin += kThreads) {
      table.counts[slot_count_index(range, bin, table.pitch)] =
          bin < args.num_experts ? static_cast<uint16_t>(counts[bin]) : uint16_t{0};
    }
  }

  // The block's counts and sums to the workspace; by all threads.
  __device__ __forceinline__ void store_totals() {
    const int num_columns = args.num_experts + 1;
    const int64_t start = static_cast<int64_t>(blockIdx.x) * num_columns;
    __syncthreads();  // all tokens are counted; rows are free
    for (int c = threadIdx.x; c < num_columns; c += kThreads) {
      args.counts[start + c] = counts[c];
    }
    if (!args.has_sums) return;
    float* own = reinterpret_cast<float*>(row_words(threadIdx.x / 32));
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const float sum = Group::sum_rows(score_sums[v]);
      const int e = lane * kValues + v;
      if (threadIdx.x % 32 < kLanes && e < args.num_experts) own[e] = sum;
    }
    const float z = Group::sum_rows(z_sum);
    if (threadIdx.x % 32 == 0) own[args.num_experts] = z;
    __syncthreads();
    for (int c = threadIdx.x; c < num_columns; c += kThreads) {
      float sum = 0.0f;
      for (int w = 0; w < kRouteWarps<kValues>; ++w)
        sum += reinterpret_cast<float*>(row_words(w))[c];
      args.sums[start + c] = sum;
    }
  }
};

// Registers for 32 warps on a multiprocessor up to 256 experts.
template <int kValues>
inline constexpr int kRouteBlocksPerSm = kValues <= 16 ? 2 : 1;

template <typename T, int kLanes, int kValues>
__global__ void __launch_bounds__(kRouteWarps<kValues> * 32, kRouteBlocksPerSm<kValues>)
    route_kernel(const RouteArgs args) {
  using Task = RouteTask<T, kLanes, kValues>;
  extern __shared__ RouteChoice shared[];
  constexpr int kTokensPerBlock = Task::kThreads / kLanes;
  ptx::let_next_kernel_start();  // it waits for this one before it reads
  int* counts = reinterpret_cast<int*>(shared + kTokensPerBlock * args.rule.topk);
  for (int c = threadIdx.x; c <= args.num_experts; c += Task::kThreads) counts[c] = 0;
  __syncthreads();
  Task task{args, shared + threadIdx.x / kLanes * args.rule.topk, counts,
            reinterpret_cast<uint32_t*>(counts + args.num_experts + 1)};
  args.pieces.for_tokens<kLanes, kRouteWarps<kValues>>(
      [&](int64_t t, bool is_token) { task.route(t, is_token); });
  if (args.counts != nullptr) task.store_totals();
  if (args.slot_counts.counts != nullptr) task.store_slot_counts();
}

}  // namespace gg::cuda
