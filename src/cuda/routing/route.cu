// route on CUDA: plan and launch. Kernels: route.cuh.
#include "cuda/routing/route.cuh"

#include "cuda/common/launch.h"
#include "cuda/door.h"
#include "cuda/routing/row_shapes.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "route";
// About four blocks on each multiprocessor of an H100; more blocks would make
// more partial sums to add.
constexpr int64_t kMaxBlocks = 512;

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
  return (args.num_experts + 1 + rows) * int64_t{4};
}

template <typename T, typename Shape>
void launch(const RouteArgs& args, int64_t num_blocks, cudaStream_t stream) {
  constexpr int kTokensPerBlock = kRouteThreads / Shape::kLanes;
  const auto kernel = route_kernel<T, Shape::kLanes, Shape::kValues>;
  kernel<<<static_cast<unsigned>(num_blocks), kRouteThreads,
           static_cast<size_t>(shared_bytes(args, kTokensPerBlock)), stream>>>(args);
  check_launch(kOp);
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
  const dim3 grid(static_cast<unsigned>(p.num_sequences),
                  static_cast<unsigned>(base::ceil_div(args.num_experts + 1, 32)));
  route_totals_kernel<<<grid, dim3(32, kTotalsRows), 0, stream>>>(totals);
  check_launch(kOp);
}

}  // namespace

void plan_route(RoutePlan& plan, const RouteProblem& p) {
  const int64_t E = p.logits.size(1);
  const int64_t length = p.logits.size(0) / p.num_sequences;
  with_row_shape(E, [&](auto shape) {
    plan.lanes_per_token = decltype(shape)::kLanes;
    plan.values_per_lane = decltype(shape)::kValues;
  });
  plan.pieces_per_sequence =
      route_pieces(length, p.num_sequences, kRouteThreads / plan.lanes_per_token, kMaxBlocks);
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
                 .counts = static_cast<int*>(workspace.data),
                 .sums = nullptr};
  if (args.has_sums) args.sums = reinterpret_cast<float*>(args.counts + num_blocks * (E + 1));
  if (num_blocks > 0) {
    with_row_type(kOp, p.logits.dtype, [&](auto tag) {
      with_row_shape(E, [&](auto shape) {
        launch<typename decltype(tag)::type, decltype(shape)>(args, num_blocks, to_cuda(stream));
      });
    });
  }
  launch_totals(p, args, plan.pieces_per_sequence, to_cuda(stream));
}

}  // namespace gg::cuda
