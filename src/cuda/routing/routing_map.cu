// routing_map on CUDA: a warp for each token.
#include "base/math.h"
#include "cuda/common/launch.h"
#include "cuda/door.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "routing_map";
constexpr int kThreads = 256;
constexpr int kTokensPerBlock = kThreads / 32;

struct RoutingMapArgs {
  const uint8_t* routing_map;  // [T, E]
  int* indices;                // [T, topK]
  int64_t num_tokens;
  int num_experts;
  int64_t topk;
};

// 32 experts at a time: an expert's place is the number of those chosen before it.
__global__ void __launch_bounds__(kThreads) find_indices(const RoutingMapArgs args) {
  const int lane = threadIdx.x % 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokensPerBlock + threadIdx.x / 32;
  if (token >= args.num_tokens) return;  // whole warps
  const uint8_t* chosen = args.routing_map + token * args.num_experts;
  int* indices = args.indices + token * args.topk;
  int64_t num_found = 0;
  for (int64_t first = 0; first < args.num_experts && num_found < args.topk; first += 32) {
    const int64_t expert = first + lane;
    const bool is_chosen = expert < args.num_experts && chosen[expert] != 0;
    const unsigned votes = __ballot_sync(~0u, is_chosen);
    const int64_t k = num_found + __popc(votes & ((1u << lane) - 1));
    if (is_chosen && k < args.topk) indices[k] = static_cast<int>(expert);
    num_found += __popc(votes);
  }
  for (int64_t k = num_found + lane; k < args.topk; k += 32) indices[k] = -1;
}

}  // namespace

void routing_map(const RoutingMapProblem& problem, Stream stream) {
  if (problem.indices.num_elements() == 0) return;
  const RoutingMapArgs args{.routing_map = static_cast<const uint8_t*>(problem.routing_map.data),
                            .indices = static_cast<int*>(problem.indices.data),
                            .num_tokens = problem.routing_map.size(0),
                            .num_experts = static_cast<int>(problem.routing_map.size(1)),
                            .topk = problem.indices.size(1)};
  const int64_t num_blocks = base::ceil_div(args.num_tokens, kTokensPerBlock);
  find_indices<<<static_cast<unsigned>(num_blocks), kThreads, 0, to_cuda(stream)>>>(args);
  check_launch(kOp);
}

}  // namespace gg::cuda
