// Gradient of route on CUDA: plan and launch. Kernel: route_bwd.cuh.
#include "cuda/routing/route_bwd.cuh"

#include "cuda/common/launch.h"
#include "cuda/door.h"
#include "cuda/routing/row_shapes.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "route_bwd";
constexpr int64_t kMaxBlocks = 4096;  // nothing is summed over blocks
constexpr int kThreads = kRouteBwdWarps * 32;

template <typename T, typename Shape>
void launch_rows(const RouteBwdProblem& p, RouteBwdArgs args, int64_t num_blocks,
                 cudaStream_t stream) {
  constexpr int kChunkBytes = sizeof(RouteChunk<T, kRouteChunk<T, Shape::kValues>>);
  args.moves_chunks = common_vector_bytes(p.logits, kChunkBytes) == kChunkBytes &&
                      common_vector_bytes(p.logits_grad, kChunkBytes) == kChunkBytes;
  const auto kernel = args.is_dense() ? route_bwd_kernel<T, Shape::kLanes, Shape::kValues, true>
                                      : route_bwd_kernel<T, Shape::kLanes, Shape::kValues, false>;
  kernel<<<static_cast<unsigned>(num_blocks), kThreads, 0, stream>>>(args);
  check_launch(kOp);
}

}  // namespace

void plan_route_bwd(RoutePlan& plan, const RouteBwdProblem& p) {
  with_row_shape(p.logits.size(1), [&](auto shape) {
    plan.lanes_per_token = decltype(shape)::kLanes;
    plan.values_per_lane = decltype(shape)::kValues;
  });
  plan.pieces_per_sequence = route_pieces(p.logits.size(0) / p.num_sequences, p.num_sequences,
                                          kThreads / plan.lanes_per_token, kMaxBlocks);
}

void route_bwd(const RoutePlan& plan, const RouteBwdProblem& p, Stream stream) {
  const int64_t num_blocks = p.num_sequences * plan.pieces_per_sequence;
  if (num_blocks == 0) return;
  const RouteBwdArgs args{.logits = p.logits.data,
                          .indices = static_cast<const int*>(p.indices.data),
                          .probs_grad = static_cast<const float*>(p.probs_grad.data),
                          .score_sums_grad = static_cast<const float*>(p.score_sums_grad.data),
                          .z_sums_grad = static_cast<const float*>(p.z_sums_grad.data),
                          .logits_grad = p.logits_grad.data,
                          .num_experts = static_cast<int>(p.logits.size(1)),
                          .moves_chunks = false,
                          .pieces = {.tokens_per_sequence = p.logits.size(0) / p.num_sequences,
                                     .pieces_per_sequence = plan.pieces_per_sequence},
                          .rule = make_rule(p.options)};
  with_row_type(kOp, p.logits.dtype, [&](auto tag) {
    with_row_shape(p.logits.size(1), [&](auto shape) {
      launch_rows<typename decltype(tag)::type, decltype(shape)>(p, args, num_blocks,
                                                                 to_cuda(stream));
    });
  });
}

}  // namespace gg::cuda
