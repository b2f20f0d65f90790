// Gradient of route where only the chosen logits get one: softmax over the chosen,
// or sigmoid, without sums. The gradient's rows are zeros but for topK elements; a
// warp composes a tile of rows in shared memory and stores it once, 16 bytes at a
// time. Bytes that move: ids, probs and their gradient read, the rows written; a
// sigmoid's chosen logits besides. All reads of a tile are under way before the
// first is needed. Launched by route_bwd.cu.
#pragma once

#include "base/math.h"
#include "cuda/common/dependent_launch.cuh"
#include "cuda/routing/route_bwd.cuh"

namespace gg::cuda {

inline constexpr int kRouteTileWarps = 4;     // of a block; none waits for another
inline constexpr int kRouteTileBytes = 2048;  // of gradient: what a warp's tile is near to
inline constexpr int kRouteTileSteps = 4;     // most choices of a lane

// The topk choices of a token lie in so many neighbouring lanes, a power of two.
inline int log2_choice_lanes(int topk) {
  int log2 = 0;
  while (1 << log2 < topk) ++log2;
  return log2;
}

// Tokens of a tile, a power of two: near kRouteTileBytes, and so many that tiles are
// multiples of 16 bytes where that does not take too many.
inline int route_tile_tokens(int64_t row_bytes, int topk) {
  const int64_t most = kRouteTileSteps * 32 >> log2_choice_lanes(topk);
  int64_t tokens = 1;
  while (2 * tokens <= most && 2 * tokens * row_bytes <= kRouteTileBytes) tokens *= 2;
  int64_t whole = 1;  // tokens that fill vectors
  while (whole * row_bytes % 16 != 0) whole *= 2;
  const bool fits = whole <= most && whole * row_bytes <= 4 * kRouteTileBytes;
  return static_cast<int>(fits ? base::max(tokens, whole) : tokens);
}

// Choices of a lane: 1, 2 or kRouteTileSteps.
inline int route_tile_steps(int tokens_per_tile, int topk) {
  const int choices = tokens_per_tile << log2_choice_lanes(topk);
  return choices <= 32 ? 1 : (choices <= 64 ? 2 : kRouteTileSteps);
}

template <typename T, int kSteps>
struct RouteBwdTile {
  const RouteBwdArgs& args;
  T* tile;              // shared [tokens_per_tile, E], its bytes rounded up to 16
  int64_t first_token;  // of the tile
  int num_tokens;       // 1 or more
  int lane = threadIdx.x % 32;

  // The token, within the tile, of this lane's choice.
  __device__ __forceinline__ int token_of(int step) const {
    return (step * 32 + lane) >> args.log2_choice_lanes;
  }

  __device__ __forceinline__ void load(WeighedChoice (&choices)[kSteps]) const {
    if (args.probs_grad == nullptr) return;  // zeros
    const int rank = lane & ((1 << args.log2_choice_lanes) - 1);
    const int64_t start = first_token * args.rule.topk;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int token = token_of(s);
      if (rank < args.rule.topk && token < num_tokens) {
        choices[s].load(args, start + token * args.rule.topk + rank);
      }
    }
  }

  __device__ __forceinline__ void clear() const {
    uint4* vectors = reinterpret_cast<uint4*>(tile);
    for (int i = lane; i < args.tile_bytes / 16; i += 32) vectors[i] = uint4{0, 0, 0, 0};
  }

  // 1 - score, of a sigmoid; else 1.
  __device__ __forceinline__ void load_factors(const WeighedChoice (&choices)[kSteps],
                                               float (&factors)[kSteps]) const {
    const T* logits = static_cast<const T*>(args.logits) + first_token * args.num_experts;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      factors[s] = 1.0f;
      if (!args.rule.is_sigmoid || choices[s].expert < 0) continue;
      factors[s] = sigmoid(-to_float(logits[token_of(s) * args.num_experts + choices[s].expert]));
    }
  }

  // In every lane of a token.
  __device__ __forceinline__ void dot(const WeighedChoice (&choices)[kSteps],
                                      float (&dots)[kSteps]) const {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) dots[s] = choices[s].product(args.rule);
    for (int distance = (1 << args.log2_choice_lanes) / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        dots[s] += __shfl_xor_sync(0xffffffffu, dots[s], distance);
      }
    }
  }

  __device__ __forceinline__ void store() const {
    T* grad = static_cast<T*>(args.logits_grad) + first_token * args.num_experts;
    const int count = num_tokens * args.num_experts;
    int stored = 0;
    if (args.stores_vectors) {
      constexpr int kElements = 16 / sizeof(T);
      const uint4* vectors = reinterpret_cast<const uint4*>(tile);
#pragma unroll 4
      for (int i = lane; i < count / kElements; i += 32) {
        reinterpret_cast<uint4*>(grad)[i] = vectors[i];
      }
      stored = count / kElements * kElements;
    }
    for (int i = stored + lane; i < count; i += 32) grad[i] = tile[i];
  }

  __device__ __forceinline__ void backward() const {
    WeighedChoice choices[kSteps];
    ptx::wait_for_previous_kernel();
    load(choices);
    clear();
#pragma unroll
    for (int s = 0; s < kSteps; ++s) choices[s].forget_unless_below(args.num_experts);
    float factors[kSteps];
    load_factors(choices, factors);
    float dots[kSteps];
    dot(choices, dots);
    __syncwarp();  // the tile is clear
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (choices[s].expert < 0) continue;
      tile[token_of(s) * args.num_experts + choices[s].expert] =
          from_float<T>(choices[s].gradient(args.rule, dots[s]) * factors[s]);
    }
    __syncwarp();  // and composed
    store();
  }
};

// A tile to a warp, its part of the shared memory to each.
template <typename T, int kSteps>
__global__ void __launch_bounds__(kRouteTileWarps * 32)
    route_bwd_chosen_kernel(const RouteBwdArgs args) {
  extern __shared__ uint4 shared_tiles[];
  ptx::let_next_kernel_start();
  const int warp = threadIdx.x / 32;
  const int64_t tile = int64_t{blockIdx.x} * kRouteTileWarps + warp;
  const int64_t first_token = tile * args.tokens_per_tile;
  if (first_token >= args.num_tokens) return;
  const int64_t num_tokens =
      base::min(int64_t{args.tokens_per_tile}, args.num_tokens - first_token);
  RouteBwdTile<T, kSteps>{args, reinterpret_cast<T*>(shared_tiles + warp * (args.tile_bytes / 16)),
                          first_token, static_cast<int>(num_tokens)}
      .backward();
}

}  // namespace gg::cuda
