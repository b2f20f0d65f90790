// permute on CUDA: plan and launches. Kernels: row_map.cuh, rows.cuh.
#include <algorithm>

#include "base/math.h"
#include "cuda/common/dispatch.h"
#include "cuda/common/launch.h"
#include "cuda/door.h"
#include "cuda/permute/row_map.cuh"
#include "cuda/permute/rows.cuh"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "permute";
constexpr int64_t kBinsForUnknownExperts = 4096 + 1;
// Every block reads every other's counts: few enough blocks to keep that short.
constexpr int64_t kMaxSortBlocks = 128;
constexpr int64_t kMaxZeroBlocks = 128;

struct Scratch {
  BlockFacts* facts;
  int* num_kept;
  int* counts;
  int64_t bytes;
};

int64_t num_sort_blocks(const PermutePlan& plan, const PermuteProblem& problem) {
  const int64_t num_slots = problem.indices.num_elements();
  return base::max(1, base::ceil_div(num_slots, plan.slots_per_block));
}

Scratch lay_out(const PermutePlan& plan, const PermuteProblem& problem, void* memory) {
  const int64_t num_blocks = num_sort_blocks(plan, problem);
  char* base_address = static_cast<char*>(memory);
  const int64_t facts_bytes = num_blocks * int64_t{sizeof(BlockFacts)};
  const int64_t counts_at = facts_bytes + 16;
  return {reinterpret_cast<BlockFacts*>(base_address),
          reinterpret_cast<int*>(base_address + facts_bytes),
          reinterpret_cast<int*>(base_address + counts_at),
          counts_at + num_blocks * plan.num_bins * int64_t{sizeof(int)}};
}

void launch_row_map(const RowMapArgs& args, int num_blocks, cudaStream_t stream) {
  const size_t shared_bytes = static_cast<size_t>(args.num_bins) * sizeof(int);
  allow_shared_bytes(kOp, count_slots, static_cast<int64_t>(shared_bytes));
  allow_shared_bytes(kOp, place_slots, static_cast<int64_t>(shared_bytes));
  count_slots<<<num_blocks, kSortThreads, shared_bytes, stream>>>(args);
  check_launch(kOp);
  place_slots<<<num_blocks, kSortThreads, shared_bytes, stream>>>(args);
  check_launch(kOp);
}

void launch_rows(PermuteRowsArgs args, int vector_bytes, cudaStream_t stream) {
  const RowShape shape = row_shape(args.row_bytes / vector_bytes);
  args.num_token_blocks = static_cast<int>(base::ceil_div(args.num_tokens, shape.rows_per_block()));
  const int64_t num_zero_blocks =
      std::min(kMaxZeroBlocks, base::ceil_div(args.num_out, shape.rows_per_block()));
  const int num_blocks = args.num_token_blocks + static_cast<int>(num_zero_blocks);
  if (num_blocks == 0 || args.row_bytes == 0) return;
  switch (vector_bytes) {
    case 16: permute_rows<16><<<num_blocks, kRowThreads, 0, stream>>>(args, shape); break;
    case 8: permute_rows<8><<<num_blocks, kRowThreads, 0, stream>>>(args, shape); break;
    case 4: permute_rows<4><<<num_blocks, kRowThreads, 0, stream>>>(args, shape); break;
    case 2: permute_rows<2><<<num_blocks, kRowThreads, 0, stream>>>(args, shape); break;
    default: permute_rows<1><<<num_blocks, kRowThreads, 0, stream>>>(args, shape); break;
  }
  check_launch(kOp);
}

}  // namespace

void plan_permute(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits) {
  // One bin more than experts, so that the last one stays empty when E is known.
  plan.num_bins = problem.num_experts > 0 ? problem.num_experts + 1 : kBinsForUnknownExperts;
  constexpr int64_t kOtherSharedBytes = 16 * 1024;  // what the kernels hold besides the bins
  const int64_t max_bins = (limits.shared_bytes_per_block - kOtherSharedBytes) / 4;
  GG_REQUIRE(plan.num_bins <= max_bins, kOp, ": num_experts got ", problem.num_experts,
             "; needs at most ", max_bins - 1, " on this device, which has ",
             limits.shared_bytes_per_block, " bytes of shared memory a block");
  const int64_t num_slots = problem.indices.num_elements();
  plan.slots_per_block = base::max(
      kSortThreads, base::round_up(base::ceil_div(num_slots, kMaxSortBlocks), kSortThreads));
  plan.vector_bytes =
      std::min(common_vector_bytes(problem.input), common_vector_bytes(problem.output));
  plan.workspace_bytes = lay_out(plan, problem, nullptr).bytes;
}

void permute(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
             Stream stream) {
  const Scratch scratch = lay_out(plan, problem, workspace.data);
  const int num_tokens = static_cast<int>(problem.indices.size(0));
  const int topk = static_cast<int>(problem.indices.size(1));
  const int num_out = static_cast<int>(problem.output.size(0));
  const RowMapArgs map_args{
      .indices = {problem.indices.data, problem.indices.dtype == DType::kInt64},
      .num_tokens = num_tokens,
      .topk = std::max(topk, 1),
      .num_slots = num_tokens * topk,
      .num_experts = static_cast<int>(problem.num_experts),
      .num_bins = static_cast<int>(plan.num_bins),
      .slots_per_block = static_cast<int>(plan.slots_per_block),
      .num_out = num_out,
      .row_id_map = static_cast<int*>(problem.row_id_map.data),
      .tokens_per_expert = static_cast<int*>(problem.tokens_per_expert.data),
      .offsets = static_cast<int*>(problem.offsets.data),
      .counts = scratch.counts,
      .facts = scratch.facts,
      .num_kept = scratch.num_kept};
  launch_row_map(map_args, static_cast<int>(num_sort_blocks(plan, problem)), to_cuda(stream));

  const int64_t element_bytes = size_of(problem.input.dtype);
  launch_rows({.input = static_cast<const char*>(problem.input.data),
               .output = static_cast<char*>(problem.output.data),
               .row_id_map = map_args.row_id_map,
               .num_kept = scratch.num_kept,
               .input_pitch = problem.input.stride(0) * element_bytes,
               .row_bytes = problem.input.size(1) * element_bytes,
               .num_tokens = num_tokens,
               .topk = topk,
               .num_out = num_out,
               .num_token_blocks = 0},
              plan.vector_bytes, to_cuda(stream));
}

}  // namespace gg::cuda
