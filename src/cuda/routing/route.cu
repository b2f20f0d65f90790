// route on CUDA: plan and launches. Kernels: route.cuh, route_totals.cuh, and the row
// map's (permute/row_map.cuh). Start at route() at the end. Launches:
//
//   no row map                    route, totals
//   row map                       route, map
//   row map of few slots          route, map (one block, which counts)
//   row map with sums, sequences  route, totals, map as permute makes it (1 or 2)
//
// NOTE: never one launch. That needs either a block that knows it is the last, and so a
// counter that somebody has cleared (a launch again) or that outlives the call (state that
// two streams share), or one block for all tokens, which beyond some 16 tokens takes
// longer than the launch: with programmatic dependent launch the map's blocks
// are already there when the routing ends.
#include "cuda/routing/route.cuh"

#include "cuda/common/dependent_launch.h"
#include "cuda/door.h"
#include "cuda/permute/row_map.h"
#include "cuda/permute/row_map_policy.h"
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

// How the map is made, and whether of this kernel's counts: then a block takes
// neighbouring tokens, and there are only as many blocks as run at once, since every
// block of the map reads the counts of all.
void plan_map(RoutePlan& plan, const RouteProblem& p, const DeviceLimits& limits,
              int tokens_per_block, int64_t max_blocks) {
  plan.map.path = plan.path;
  select_row_map(plan.map, row_map_problem(p), limits);
  const int64_t T = p.logits.size(0);
  const int64_t tokens = base::round_up(base::ceil_div(T, max_blocks), tokens_per_block);
  const int64_t slots = tokens * p.options.topk;
  if (T == 0 || plan.adds_totals || !can_take_counts(plan.map, slots)) return;
  plan.tokens_per_piece = tokens;
  plan.pieces_per_sequence = static_cast<int>(base::ceil_div(T, tokens));
  take_counts(plan.map, plan.pieces_per_sequence, slots);
}

// The workspace: the blocks' counts and sums, the counts that a map of several
// sequences or beside sums begins with, the map's own.
struct Scratch {
  int* counts = nullptr;
  float* sums = nullptr;
  PermuteProblem map{};
  Workspace map_workspace{};
  int64_t bytes = 0;
};

Scratch lay_out(const RoutePlan& plan, const RouteProblem& p, void* memory) {
  char* const start = static_cast<char*>(memory);
  const int64_t E = p.logits.size(1);
  Scratch scratch;
  if (plan.adds_totals) {
    const int64_t num_counts = p.num_sequences * plan.pieces_per_sequence * (E + 1);
    scratch.counts = static_cast<int*>(memory);
    scratch.sums = p.score_sums.defined() ? static_cast<float*>(memory) + num_counts : nullptr;
    scratch.bytes = num_counts * (p.score_sums.defined() ? 2 : 1) * 4;
  }
  if (!p.row_id_map.defined()) return scratch;
  scratch.map = row_map_problem(p);
  scratch.bytes = base::round_up(scratch.bytes, 16);
  if (plan.adds_totals) {
    scratch.map.tokens_per_expert.data = start + scratch.bytes;
    scratch.bytes += base::round_up(E * int64_t{sizeof(int)}, 16);
  }
  const int64_t map_bytes = row_map_workspace_bytes(plan.map, scratch.map);
  scratch.map_workspace = {start + scratch.bytes, map_bytes};
  scratch.bytes += map_bytes;
  return scratch;
}

}  // namespace

void plan_route(RoutePlan& plan, const RouteProblem& p, const DeviceLimits& limits) {
  const int64_t length = p.logits.size(0) / p.num_sequences;
  int tokens_per_block = 0;
  int64_t blocks_at_once = 0;
  with_row_shape(p.logits.size(1), [&](auto shape) {
    plan.lanes_per_token = decltype(shape)::kLanes;
    plan.values_per_lane = decltype(shape)::kValues;
    constexpr int kThreads = kRouteWarps<decltype(shape)::kValues> * 32;
    tokens_per_block = kThreads / decltype(shape)::kLanes;
    blocks_at_once = kMaxBlocks / 2 * kRouteBlocksPerSm<decltype(shape)::kValues>;
    plan.pieces_per_sequence = route_pieces(length, p.num_sequences, tokens_per_block, kMaxBlocks);
  });
  plan.adds_totals = !p.row_id_map.defined() || p.num_sequences > 1 || p.score_sums.defined() ||
                     p.invalid_tokens.defined();
  if (p.row_id_map.defined()) plan_map(plan, p, limits, tokens_per_block, blocks_at_once);
  plan.workspace_bytes = lay_out(plan, p, nullptr).bytes;
}

void route(const RoutePlan& plan, const RouteProblem& p, Workspace workspace, Stream stream) {
  const int64_t E = p.logits.size(1);
  const int64_t num_blocks = p.num_sequences * plan.pieces_per_sequence;
  const Scratch scratch = lay_out(plan, p, workspace.data);
  const RouteArgs args{.logits = p.logits.data,
                       .expert_bias = static_cast<const float*>(p.expert_bias.data),
                       .probs = static_cast<float*>(p.probs.data),
                       .indices = static_cast<int*>(p.indices.data),
                       .num_experts = static_cast<int>(E),
                       .pieces = {.tokens_per_sequence = p.logits.size(0) / p.num_sequences,
                                  .pieces_per_sequence = plan.pieces_per_sequence,
                                  .tokens_per_piece = plan.tokens_per_piece},
                       .rule = make_rule(p.options),
                       .groups = make_groups(p.options, E),
                       .has_sums = p.score_sums.defined(),
                       .counts_invalid = p.invalid_tokens.defined(),
                       .reads_chunks = false,
                       .counts = scratch.counts,
                       .sums = scratch.sums,
                       .slot_counts = counts_to_take(plan.map, scratch.map, scratch.map_workspace)};
  if (num_blocks > 0) {
    with_row_type(kOp, p.logits.dtype, [&](auto tag) {
      with_row_shape(E, [&](auto shape) {
        launch_rows<typename decltype(tag)::type, decltype(shape)>(p, args, num_blocks,
                                                                   to_cuda(stream));
      });
    });
  }
  if (plan.adds_totals) launch_totals(p, args, plan.pieces_per_sequence, to_cuda(stream));
  if (p.row_id_map.defined()) {
    launch_row_map(plan.map, scratch.map, scratch.map_workspace, to_cuda(stream));
  }
}

}  // namespace gg::cuda
