// One value for each entry of a map: the probs that travel with the rows, and
// their gradient on the way back. Called by permute_probs.cu.
#pragma once

#include "cuda/permute/fast_div.h"
#include "cuda/permute/rows.cuh"

namespace gg::cuda {

struct MoveProbsArgs {
  const void* input;   // [num_inputs]
  void* output;        // [num_tokens, topK]
  IntegerPointer map;  // [topK, num_tokens]: which input, none outside [0, num_inputs)
  FastDiv topk;
  int64_t num_tokens;
  int64_t num_inputs;
  uint32_t num_outputs;
};

// output[t, k] = input[map[k, t]], or 0 where that is none. Bits are moved as they are.
template <typename Bits>
__global__ void __launch_bounds__(kRowThreads) move_probs(const MoveProbsArgs args) {
  ptx::let_next_kernel_start();
  ptx::wait_for_previous_kernel();
  const uint32_t i = blockIdx.x * kRowThreads + threadIdx.x;
  if (i >= args.num_outputs) return;
  const uint32_t token = args.topk.quotient(i);
  const uint32_t k = i - token * args.topk.divisor;
  const int64_t source = args.map.load(k * args.num_tokens + token);
  const bool is_input = source >= 0 && source < args.num_inputs;
  static_cast<Bits*>(args.output)[i] =
      is_input ? static_cast<const Bits*>(args.input)[source] : Bits{0};
}

struct ScatterProbsArgs {
  const void* input;  // [num_tokens, topK]
  void* output;       // [num_outputs], zeros beforehand
  const int* map;     // [topK, num_tokens]: which output, none outside [0, num_outputs)
  FastDiv topk;
  int64_t num_tokens;
  uint32_t num_slots;
  int64_t num_outputs;
};

// output[map[k, t]] = input[t, k]: where a map is given and its inverse is not.
template <typename Bits>
__global__ void __launch_bounds__(kRowThreads) scatter_probs_kernel(const ScatterProbsArgs args) {
  ptx::let_next_kernel_start();
  const uint32_t slot = blockIdx.x * kRowThreads + threadIdx.x;
  if (slot >= args.num_slots) return;
  const uint32_t token = args.topk.quotient(slot);
  const uint32_t k = slot - token * args.topk.divisor;
  const int row = args.map[k * args.num_tokens + token];
  if (row < 0 || row >= args.num_outputs) return;
  static_cast<Bits*>(args.output)[row] = static_cast<const Bits*>(args.input)[slot];
}

}  // namespace gg::cuda
