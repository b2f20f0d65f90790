// Launches of the row map. Kernels: row_map.cuh, capacity.cuh. Start at
// launch_row_map at the end.
#include "cuda/permute/row_map.h"

#include <algorithm>

#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/permute/capacity.cuh"
#include "cuda/permute/count_slots.cuh"
#include "cuda/permute/place_slots.cuh"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "permute";

// Sums of four ranges' counts fit into 16 bits, and half the bytes are exchanged.
bool has_short_counts(const PermutePlan& plan) {
  return plan.counted_ranges > 0 || plan.slots_per_block <= kMaxShortCount;
}

int num_ranges(const PermutePlan& plan) {
  return plan.counted_ranges > 0 ? plan.counted_ranges : plan.num_map_blocks;
}

struct Scratch {
  int* num_kept;
  BlockFacts* facts;
  void* counts;
  int64_t count_pitch;
  int64_t bytes;
};

Scratch lay_out(const PermutePlan& plan, const PermuteProblem& problem, void* memory) {
  char* const base_address = static_cast<char*>(memory);
  Scratch scratch{};
  scratch.num_kept = static_cast<int*>(memory);
  scratch.bytes = 16;
  if (plan.map_launches == 1 && plan.counted_ranges == 0) return scratch;
  if (problem.num_experts == 0) {
    scratch.facts = reinterpret_cast<BlockFacts*>(base_address + scratch.bytes);
    scratch.bytes += base::round_up(plan.num_map_blocks * int64_t{sizeof(BlockFacts)}, 16);
  }
  scratch.counts = base_address + scratch.bytes;
  scratch.count_pitch = base::round_up(num_ranges(plan), 2);  // whole vectors of 16 bytes
  scratch.bytes +=
      base::round_up(plan.num_bins, 4) * scratch.count_pitch * (has_short_counts(plan) ? 2 : 4);
  return scratch;
}

template <int kThreads, int kItems, typename Count, MapKind kKind>
void launch_place(const RowMapArgs& args, const PermutePlan& plan, cudaStream_t stream) {
  constexpr auto* kKernel = &place_slots<kThreads, kItems, Count, kKind>;
  const int64_t bins = kKind == MapKind::kAnyIds ? kFastBinsForUnknownExperts : args.num_bins;
  int64_t bytes = fast_sort_bytes(bins, kThreads, args.has_masks);
  if (kKind == MapKind::kAnyIds) {
    bytes = std::max(bytes, args.num_bins * int64_t{sizeof(int)});
  }
  prefer_common_split<kKernel>(kOp);
  launch(kOp, kKernel,
         {.num_blocks = plan.num_map_blocks,
          .num_threads = kThreads,
          .shared_bytes = bytes,
          .dependent = kKind != MapKind::kOneBlock || plan.starts_early},
         stream, args);
}

template <typename Count, MapKind kKind>
void launch_place_of(const RowMapArgs& args, const PermutePlan& plan, cudaStream_t stream) {
  if constexpr (sizeof(Count) == sizeof(uint16_t)) {
    switch (plan.map_items) {
      case 2: return launch_place<kMapThreads, 2, Count, kKind>(args, plan, stream);
      case 4: return launch_place<kMapThreads, 4, Count, kKind>(args, plan, stream);
      case 8: return launch_place<kMapThreads, 8, Count, kKind>(args, plan, stream);
      default: break;
    }
  }
  launch_place<kMapThreads, 16, Count, kKind>(args, plan, stream);
}

template <int kItems, typename Count>
void launch_count(const RowMapArgs& args, const PermutePlan& plan, cudaStream_t stream) {
  constexpr auto* kKernel = &count_slots<kItems, Count>;
  prefer_common_split<kKernel>(kOp);
  launch(kOp, kKernel,
         {.num_blocks = plan.num_map_blocks,
          .num_threads = kMapThreads,
          .shared_bytes = args.num_bins * int64_t{sizeof(int)},
          .dependent = plan.starts_early},
         stream, args);
}

template <typename Count>
void launch_two(const RowMapArgs& args, const PermutePlan& plan, cudaStream_t stream) {
  switch (plan.map_items) {
    case 2: launch_count<2, Count>(args, plan, stream); break;
    case 4: launch_count<4, Count>(args, plan, stream); break;
    default: launch_count<8, Count>(args, plan, stream);
  }
  if (plan.map_items == 0) {
    launch(kOp, &place_slots_of_many_experts<Count>,
           {.num_blocks = plan.num_map_blocks,
            .num_threads = kMapThreads,
            .shared_bytes = args.num_bins * int64_t{sizeof(int)},
            .dependent = true},
           stream, args);
  } else if (args.num_experts == 0) {
    launch_place_of<Count, MapKind::kAnyIds>(args, plan, stream);
  } else {
    launch_place_of<Count, MapKind::kExperts>(args, plan, stream);
  }
}

RowMapArgs arguments(const PermutePlan& plan, const PermuteProblem& problem,
                     const Scratch& scratch) {
  const int topk = static_cast<int>(std::max<int64_t>(problem.indices.size(1), 1));
  return {.indices = {problem.indices.data, problem.indices.dtype == DType::kInt64},
          .topk = FastDiv(static_cast<uint32_t>(topk)),
          .num_tokens = static_cast<int>(problem.indices.size(0)),
          .num_slots = static_cast<uint32_t>(problem.indices.num_elements()),
          .num_experts = static_cast<int>(problem.num_experts),
          .num_bins = static_cast<int>(plan.num_bins),
          .count_pitch = static_cast<int>(scratch.count_pitch),
          .num_ranges = num_ranges(plan),
          .ranges_per_block = plan.ranges_per_block,
          .slots_per_block = static_cast<uint32_t>(plan.slots_per_block),
          .num_out = static_cast<int>(problem.output.size(0)),
          .align_size = static_cast<int>(problem.align_size),
          .has_masks = plan.map_has_masks,
          .row_id_map = static_cast<int*>(problem.row_id_map.data),
          .slot_of_row = static_cast<int*>(problem.slot_of_row.data),
          .tokens_per_expert = static_cast<int*>(problem.tokens_per_expert.data),
          .offsets = static_cast<int*>(problem.offsets.data),
          .counts = scratch.counts,
          .facts = scratch.facts,
          .num_kept = scratch.num_kept};
}

void launch_map(const RowMapArgs& args, const PermutePlan& plan, cudaStream_t stream) {
  if (plan.counted_ranges > 0) {
    launch_place_of<uint16_t, MapKind::kCounted>(args, plan, stream);
  } else if (plan.map_launches == 1) {
    launch_place<kOneBlockThreads, kOneBlockItems, uint16_t, MapKind::kOneBlock>(args, plan,
                                                                                 stream);
  } else if (has_short_counts(plan)) {
    launch_two<uint16_t>(args, plan, stream);
  } else {
    launch_two<uint32_t>(args, plan, stream);
  }
}

// The ints that a map with a capacity needs besides: all slots by expert, and the
// sizes and ends of these lists.
int64_t num_capacity_ints(const PermuteProblem& problem) {
  if (problem.capacity == kNoCapacity) return 0;
  return problem.indices.num_elements() + 2 * problem.num_experts;
}

// The map as if no expert were full, in scratch; then what each one keeps of it.
void launch_with_capacity(const RowMapArgs& final, const PermutePlan& plan,
                          const PermuteProblem& problem, int* sorted_slots, cudaStream_t stream) {
  RowMapArgs all = final;
  all.num_out = static_cast<int>(final.num_slots);
  all.align_size = 1;
  all.slot_of_row = sorted_slots;
  all.tokens_per_expert = sorted_slots + final.num_slots;
  all.offsets = all.tokens_per_expert + final.num_experts;
  launch_map(all, plan, stream);
  const bool by_probs = problem.drop_policy == DropPolicy::kProbs;
  const int64_t capacity = base::min(problem.capacity, problem.indices.num_elements());
  launch(kOp, &keep_slots,
         {.num_blocks = problem.num_experts, .num_threads = kCapacityThreads, .dependent = true},
         stream,
         CapacityArgs{.map = final,
                      .sorted_slots = all.slot_of_row,
                      .slots_per_expert = all.tokens_per_expert,
                      .slot_ends = all.offsets,
                      .probs = {by_probs ? problem.probs.data : nullptr, problem.probs.dtype},
                      .capacity = static_cast<int>(capacity)});
}

}  // namespace

int64_t row_map_workspace_bytes(const PermutePlan& plan, const PermuteProblem& problem) {
  return base::round_up(lay_out(plan, problem, nullptr).bytes, 16) +
         num_capacity_ints(problem) * int64_t{sizeof(int)};
}

SlotCounts counts_to_take(const PermutePlan& plan, const PermuteProblem& problem,
                          Workspace workspace) {
  if (plan.counted_ranges == 0) return {};
  const Scratch scratch = lay_out(plan, problem, workspace.data);
  return {.counts = static_cast<uint16_t*>(scratch.counts),
          .pitch = static_cast<int>(scratch.count_pitch),
          .num_bins = static_cast<int>(plan.num_bins)};
}

const int* launch_row_map(const PermutePlan& plan, const PermuteProblem& problem,
                          Workspace workspace, cudaStream_t stream) {
  const Scratch scratch = lay_out(plan, problem, workspace.data);
  const RowMapArgs args = arguments(plan, problem, scratch);
  if (problem.capacity == kNoCapacity) {
    launch_map(args, plan, stream);
  } else {
    char* const rest = static_cast<char*>(workspace.data) + base::round_up(scratch.bytes, 16);
    launch_with_capacity(args, plan, problem, reinterpret_cast<int*>(rest), stream);
  }
  return scratch.num_kept;
}

}  // namespace gg::cuda
