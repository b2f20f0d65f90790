// What route.cuh chooses by: keys that order floats as integers, the best of a
// token's keys, the best groups. Everything by whole warps.
#pragma once

#include <climits>

#include "cuda/common/lanes.cuh"

namespace gg::cuda {

// Larger floats have larger keys; NaN has the largest, both zeros the same; 0 is
// the key of no float: of experts that cannot be chosen (any more).
__device__ __forceinline__ uint32_t sort_key(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0
  const uint32_t key = bits ^ (static_cast<uint32_t>(static_cast<int>(bits) >> 31) | 0x80000000u);
  return value != value ? 0xffffffffu : key;
}
__device__ __forceinline__ float from_sort_key(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

// A lane's kValues keys in queues of up to four, each sorted once, best first and
// lowest index first: then only the heads are compared, and taking one is a shift.
template <int kValues>
struct RouteQueues {
  static constexpr int kLength = kValues < 4 ? kValues : 4;
  static constexpr int kQueues = kValues / kLength;

  uint32_t keys[kQueues][kLength];
  uint32_t order[kQueues];  // where each key stood in its queue's values, two bits each

  __device__ __forceinline__ explicit RouteQueues(const uint32_t (&values)[kValues]) {
#pragma unroll
    for (int q = 0; q < kQueues; ++q) {
      uint32_t places[kLength];
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        keys[q][i] = values[q * kLength + i];
        places[i] = i;
      }
#pragma unroll
      for (int end = kLength - 1; end > 0; --end) {
#pragma unroll
        for (int i = 0; i < end; ++i) order_pair(q, i, places);
      }
      order[q] = 0;
#pragma unroll
      for (int i = 0; i < kLength; ++i) order[q] |= places[i] << (2 * i);
    }
  }

  // Neighbours change places only if they must: equal keys keep their order.
  __device__ __forceinline__ void order_pair(int q, int i, uint32_t (&places)[kLength]) {
    const uint32_t a = keys[q][i], b = keys[q][i + 1];
    const uint32_t place_a = places[i], place_b = places[i + 1];
    keys[q][i] = b > a ? b : a;
    keys[q][i + 1] = b > a ? a : b;
    places[i] = b > a ? place_b : place_a;
    places[i + 1] = b > a ? place_a : place_b;
  }

  __device__ __forceinline__ uint32_t best() const {
    uint32_t key = keys[0][0];
#pragma unroll
    for (int q = 1; q < kQueues; ++q) key = keys[q][0] > key ? keys[q][0] : key;
    return key;
  }

  // Takes the first of the keys that equal best(), and says which value it was.
  __device__ __forceinline__ int take(uint32_t key) {
    int value = 0;
    bool is_taken = false;
#pragma unroll
    for (int q = 0; q < kQueues; ++q) {
      if (is_taken || keys[q][0] != key) continue;
      is_taken = true;
      value = q * kLength + static_cast<int>(order[q] & 3);
      order[q] >>= 2;
#pragma unroll
      for (int i = 0; i + 1 < kLength; ++i) keys[q][i] = keys[q][i + 1];
      keys[q][kLength - 1] = 0;
    }
    return value;
  }
};

// A chosen expert, in shared memory.
struct alignas(8) RouteChoice {
  uint32_t key;
  int expert;
};

// The topk best of all lanes' keys, those of experts lane * kValues + v, best
// first. By whole warps; the caller waits for the warp before it reads.
template <int kLanes, int kValues>
__device__ __forceinline__ void choose_best(const uint32_t (&keys)[kValues], int topk, int lane,
                                            RouteChoice* choices) {
  using Group = Lanes<kLanes>;
  const unsigned lower_lanes = ((1u << lane) - 1) << (threadIdx.x % 32 - lane);  // of this row
  RouteQueues<kValues> queues(keys);
#pragma unroll 2
  for (int k = 0; k < topk; ++k) {
    const uint32_t own = queues.best();
    const uint32_t best = Group::max(own);
    const unsigned holders = __ballot_sync(Group::kWarp, own == best);
    if (own == best && (holders & lower_lanes) == 0) {
      choices[k] = {best, lane * kValues + queues.take(best)};
    }
  }
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

}  // namespace gg::cuda
