// route on CUDA: plan and launch. Kernels: route.cuh, route_totals.cuh.
#include "cuda/routing/route.cuh"

#include "cuda/common/dependent_launch.h"
#include "cuda/door.h"
#include "cuda/routing/route_totals.cuh"
#include "cuda/routing/row_shapes.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "route";
// About two blocks on each multiprocessor of an H100, which is all that it holds;
// more blocks would make more partial sums to add.
constexpr int64_t kMaxBlocks = 256;

RouteGroups make_groups(const RouteOptions& o, int64_t num_experts) {
  const int size = static_cast<int>(num_experts) / o.num_groups;
  return {.num_groups = o.num_groups,
          .group_topk = o.group_topk,
          .group_size = size,
          .num_best = o.group_score_topk < size ? o.group_score_topk : size,
          .magic = (1 << 20) / size + 1};
}

int64_t shared_bytes(const RouteArgs& args, int tokens_per_block) {
  const bool needs_rows = args.has_sums || args.groups.num_groups > 1;
  const int64_t rows = needs_rows ? tokens_per_block * route_row_words(args.num_experts) : 0;
  const int64_t choices = tokens_per_block * args.rule.topk;
  return choices * int64_t{sizeof(RouteChoice)} + (args.num_experts + 1 + rows) * int64_t{4};
}

template <typename T, typename Shape>
void launch_rows(const RouteProblem& p, RouteArgs args, int64_t num_blocks, cudaStream_t stream) {
  constexpr int kThreads = kRouteWarps<Shape::kValues> * 32;
  constexpr int kChunkBytes = sizeof(RouteChunk<T, kRouteChunk<T, Shape::kValues>>);
  args.reads_chunks = common_vector_bytes(p.logits, kChunkBytes) == kChunkBytes;
  launch(kOp, route_kernel<T, Shape::kLanes, Shape::kValues>,
         {.num_blocks = num_blocks,
          .num_threads = kThreads,
          .shared_bytes = shared_bytes(args, kThreads / Shape::kLanes)},
         stream, args);
}

void launch_totals(const RouteProblem& p, const RouteArgs& args, int num_pieces,
                   cudaStream_t stream) {
  const RouteTotalsArgs totals{.counts = args.counts,
                               .sums = args.sums,
                               .num_pieces = num_pieces,
                               .num_experts = args.num_experts,
                               .tokens_per_expert = static_cast<int*>(p.tokens_per_expert.data),
                               .invalid_tokens = static_cast<int*>(p.invalid_tokens.data),
                               .score_sums = static_cast<float*>(p.score_sums.data),
                               .z_sums = static_cast<float*>(p.z_sums.data)};
  launch(kOp, route_totals_kernel,
         {.num_blocks = p.num_sequences * totals_tiles(args.num_experts),
          .num_threads = 32 * kTotalsRows,
          .dependent = num_pieces > 0},
         stream, totals);
}

}  // namespace

void plan_route(RoutePlan& plan, const RouteProblem& p) {
  const int64_t E = p.logits.size(1);
  const int64_t length = p.logits.size(0) / p.num_sequences;
  with_row_shape(E, [&](auto shape) {
    plan.lanes_per_token = decltype(shape)::kLanes;
    plan.values_per_lane = decltype(shape)::kValues;
    constexpr int kThreads = kRouteWarps<decltype(shape)::kValues> * 32;
    plan.pieces_per_sequence =
        route_pieces(length, p.num_sequences, kThreads / decltype(shape)::kLanes, kMaxBlocks);
  });
  const int64_t arrays = p.score_sums.defined() ? 2 : 1;
  plan.workspace_bytes = p.num_sequences * plan.pieces_per_sequence * (E + 1) * arrays * 4;
}

void route(const RoutePlan& plan, const RouteProblem& p, Workspace workspace, Stream stream) {
  const int64_t E = p.logits.size(1);
  const int64_t num_blocks = p.num_sequences * plan.pieces_per_sequence;
  RouteArgs args{.logits = p.logits.data,
                 .expert_bias = static_cast<const float*>(p.expert_bias.data),
                 .probs = static_cast<float*>(p.probs.data),
                 .indices = static_cast<int*>(p.indices.data),
                 .num_experts = static_cast<int>(E),
                 .pieces = {.tokens_per_sequence = p.logits.size(0) / p.num_sequences,
                            .pieces_per_sequence = plan.pieces_per_sequence},
                 .rule = make_rule(p.options),
                 .groups = make_groups(p.options, E),
                 .has_sums = p.score_sums.defined(),
                 .counts_invalid = p.invalid_tokens.defined(),
                 .reads_chunks = false,
                 .counts = static_cast<int*>(workspace.data),
                 .sums = nullptr};
  if (args.has_sums) args.sums = reinterpret_cast<float*>(args.counts + num_blocks * (E + 1));
  if (num_blocks > 0) {
    with_row_type(kOp, p.logits.dtype, [&](auto tag) {
      with_row_shape(E, [&](auto shape) {
        launch_rows<typename decltype(tag)::type, decltype(shape)>(p, args, num_blocks,
                                                                   to_cuda(stream));
      });
    });
  }
  launch_totals(p, args, plan.pieces_per_sequence, to_cuda(stream));
}

}  // namespace gg::cuda
