// Gradient of route on CUDA: plan and launch. Kernels: route_bwd_chosen.cuh,
// route_bwd_dense.cuh.
#include "cuda/common/dependent_launch.h"
#include "cuda/door.h"
#include "cuda/routing/route_bwd_chosen.cuh"
#include "cuda/routing/route_bwd_dense.cuh"
#include "cuda/routing/row_shapes.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "route_bwd";
constexpr int64_t kMaxBlocks = 4096;  // dense; nothing is summed over blocks
constexpr int kThreads = kRouteBwdWarps * 32;

int64_t row_bytes(const RouteBwdProblem& p) { return p.logits.size(1) * size_of(p.logits.dtype); }

// Whether every logit gets a gradient.
bool is_dense(const RouteBwdProblem& p) {
  const bool spreads = make_rule(p.options).needs_softmax_of_all() && p.probs_grad.defined();
  return spreads || p.score_sums_grad.defined() || p.z_sums_grad.defined();
}

RouteBwdArgs make_args(const RoutePlan& plan, const RouteBwdProblem& p) {
  return {.logits = p.logits.data,
          .indices = static_cast<const int*>(p.indices.data),
          .probs = static_cast<const float*>(p.probs.data),
          .probs_grad = static_cast<const float*>(p.probs_grad.data),
          .score_sums_grad = static_cast<const float*>(p.score_sums_grad.data),
          .z_sums_grad = static_cast<const float*>(p.z_sums_grad.data),
          .logits_grad = p.logits_grad.data,
          .num_tokens = p.logits.size(0),
          .num_experts = static_cast<int>(p.logits.size(1)),
          .moves_chunks = false,
          .pieces = {.tokens_per_sequence = p.logits.size(0) / p.num_sequences,
                     .pieces_per_sequence = plan.pieces_per_sequence},
          .tokens_per_tile = plan.tokens_per_tile,
          .tile_bytes = static_cast<int>(base::round_up(plan.tokens_per_tile * row_bytes(p), 16)),
          .log2_choice_lanes = log2_choice_lanes(p.options.topk),
          .stores_vectors = false,
          .rule = make_rule(p.options)};
}

template <typename T, typename Shape>
void launch_dense(const RouteBwdProblem& p, RouteBwdArgs args, cudaStream_t stream) {
  constexpr int kChunkBytes = sizeof(RouteChunk<T, kRouteChunk<T, Shape::kValues>>);
  args.moves_chunks = common_vector_bytes(p.logits, kChunkBytes) == kChunkBytes &&
                      common_vector_bytes(p.logits_grad, kChunkBytes) == kChunkBytes;
  const int64_t num_blocks = p.num_sequences * args.pieces.pieces_per_sequence;
  route_bwd_dense_kernel<T, Shape::kLanes, Shape::kValues>
      <<<static_cast<unsigned>(num_blocks), kThreads, 0, stream>>>(args);
}

template <typename T>
void launch_chosen(const RouteBwdProblem& p, RouteBwdArgs args, cudaStream_t stream) {
  args.stores_vectors = args.tokens_per_tile * row_bytes(p) % 16 == 0 &&
                        reinterpret_cast<uintptr_t>(p.logits_grad.data) % 16 == 0;
  const int64_t tokens_per_block = int64_t{args.tokens_per_tile} * kRouteTileWarps;
  const int64_t num_blocks = base::ceil_div(args.num_tokens, tokens_per_block);
  const auto with = [&](auto* kernel) {
    // Starts early: H200, 2026-11-22, us with and without, 512x8x128 1.19 and 1.69,
    // 16384x8x128 3.37 and 3.83, 65536x8x256 21.07 and 21.74; 65536x8x8 3.54 and 3.31.
    launch(kOp, kernel,
           {.num_blocks = num_blocks,
            .num_threads = kRouteTileWarps * 32,
            .shared_bytes = int64_t{kRouteTileWarps} * args.tile_bytes,
            .dependent = true},
           stream, args);
  };
  switch (route_tile_steps(args.tokens_per_tile, p.options.topk)) {
    case 1: return with(route_bwd_chosen_kernel<T, 1>);
    case 2: return with(route_bwd_chosen_kernel<T, 2>);
    default: return with(route_bwd_chosen_kernel<T, kRouteTileSteps>);
  }
}

}  // namespace

void plan_route_bwd(RoutePlan& plan, const RouteBwdProblem& p) {
  if (!is_dense(p)) {
    plan.tokens_per_tile = route_tile_tokens(row_bytes(p), p.options.topk);
    return;
  }
  with_row_shape(p.logits.size(1), [&](auto shape) {
    plan.lanes_per_token = decltype(shape)::kLanes;
    plan.values_per_lane = decltype(shape)::kValues;
  });
  plan.pieces_per_sequence = route_pieces(p.logits.size(0) / p.num_sequences, p.num_sequences,
                                          kThreads / plan.lanes_per_token, kMaxBlocks);
}

void route_bwd(const RoutePlan& plan, const RouteBwdProblem& p, Stream stream) {
  if (p.logits.size(0) == 0) return;
  const RouteBwdArgs args = make_args(plan, p);
  with_row_type(kOp, p.logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (!is_dense(p)) return launch_chosen<T>(p, args, to_cuda(stream));
    with_row_shape(p.logits.size(1),
                   [&](auto shape) { launch_dense<T, decltype(shape)>(p, args, to_cuda(stream)); });
  });
  check_launch(kOp);
}

}  // namespace gg::cuda
