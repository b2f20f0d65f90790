#include "cuda/permute/row_map_policy.h"

#include "base/check.h"
#include "base/math.h"

namespace gg::cuda {
namespace {

// Every block reads every other's counts, so there are few blocks; and they all
// run at once on 132 SMs. H200, 2026-11-23, us with 128 and 256 blocks, 128 experts, ranks by
// masks: 256 K slots 5.2 and 5.9, 512 K 7.7 and 8.4, 1 M 11.6 and 11.9; E unknown 512 K 8.5 and
// 10.0, 1 M 12.5 and 13.8.
constexpr int64_t kMaxBlocks = 128;

constexpr int64_t kOneBlockSlots = kOneBlockThreads * kOneBlockItems;
// A block that takes more leaves no room for the kernels it overlaps with.
constexpr int64_t kOneBlockSharedBytes = 160 * 1024;
constexpr int64_t kOtherSharedBytes = 16 * 1024;  // what the kernels hold besides

// Slots of one thread at a time: more of them once all blocks are busy.
int items_for(int64_t num_slots) {
  int items = 2;
  while (items < 16 && kMaxBlocks * kMapThreads * items < num_slots) items *= 2;
  return items;
}

// Whether the first kernel is launched while the one before it may still run, which
// hides its launch. H200, 2026-11-22, us of a map with and without, 128 experts (in 128
// blocks, ranks by votes): 4 K slots 5.72 and 6.20, 64 K 4.20 and 4.94, 256 K 5.89 and
// 6.73; but 512 K 12.79 and 9.42, 1 M 19.64 and 13.75. E unknown: 64 K 4.99 and 5.67,
// 256 K 8.87 and 7.67. moe_permute, of copy: 403 MB of rows 0.924 and 0.917, 604 MB 0.884
// and 0.885, 1 GB 0.815 to 0.888 and 0.887.
bool starts_early(const PermuteProblem& problem) {
  constexpr int64_t kMaxSlots = 256 * 1024;
  constexpr int64_t kMaxSlotsOfUnknownExperts = 64 * 1024;
  constexpr int64_t kMaxRowBytes = int64_t{512} << 20;  // read and written
  const int64_t row_bytes = problem.input.size(1) * size_of(problem.input.dtype);
  const int64_t num_rows = problem.input.size(0) + problem.output.size(0);
  return problem.indices.num_elements() <=
             (problem.num_experts > 0 ? kMaxSlots : kMaxSlotsOfUnknownExperts) &&
         num_rows * row_bytes < kMaxRowBytes;
}

}  // namespace

void select_row_map(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits) {
  plan.starts_early = starts_early(problem);
  if (problem.map_is_given) return;
  const int64_t num_slots = problem.indices.num_elements();
  const int64_t experts = problem.num_experts;
  const int64_t shared_bytes = limits.shared_bytes_per_block - kOtherSharedBytes;
  const int64_t max_bins = shared_bytes / 4;
  GG_REQUIRE(experts < max_bins, "permute: num_experts got ", experts, "; needs at most ",
             max_bins - 1, " on this device, which has ", limits.shared_bytes_per_block,
             " bytes of shared memory a block");
  const int64_t bins =
      experts > 0 ? padded_bins(static_cast<int>(experts)) : kFastBinsForUnknownExperts;

  // Slots are ranked by masks of lanes, or where those have no room by the match
  // instruction.
  const auto bytes = [&](int num_threads, bool has_masks) {
    return fast_sort_bytes(bins, num_threads, has_masks);
  };
  const int64_t one_block_bytes = base::min(shared_bytes, kOneBlockSharedBytes);
  if (experts > 0 && num_slots <= kOneBlockSlots &&
      bytes(kOneBlockThreads, false) <= one_block_bytes) {
    plan.map_launches = 1;
    plan.map_items = kOneBlockItems;
    plan.map_has_masks = bytes(kOneBlockThreads, true) <= one_block_bytes;
    plan.num_map_blocks = 1;
    plan.slots_per_block = kOneBlockSlots;
    plan.num_bins = bins;
    return;
  }
  const bool fast = experts == 0 || bytes(kMapThreads, false) <= shared_bytes;
  plan.map_launches = 2;
  plan.map_items = fast ? items_for(num_slots) : 0;
  plan.map_has_masks = fast && bytes(kMapThreads, true) <= shared_bytes;
  const int64_t tile = kMapThreads * base::max(plan.map_items, 1);
  plan.slots_per_block =
      base::max(tile, base::round_up(base::ceil_div(num_slots, kMaxBlocks), tile));
  plan.num_map_blocks =
      static_cast<int>(base::max(1, base::ceil_div(num_slots, plan.slots_per_block)));
  // Where E is unknown the last bin takes every larger id.
  plan.num_bins = experts == 0 ? kMaxCountedId + 1 : fast ? bins : experts;
}

bool can_take_counts(const PermutePlan& plan, int64_t slots_per_range) {
  return plan.map_launches == 2 && plan.map_items > 0 && slots_per_range <= kMaxShortCount;
}

void take_counts(PermutePlan& plan, int num_ranges, int64_t slots_per_range) {
  // A range that is a little longer than a tile would cost a second one.
  while (plan.map_items < 16 && kMapThreads * plan.map_items < slots_per_range) plan.map_items *= 2;
  const int64_t tile = kMapThreads * plan.map_items;
  plan.map_launches = 1;
  plan.counted_ranges = num_ranges;
  plan.ranges_per_block = static_cast<int>(base::max(1, tile / slots_per_range));
  plan.slots_per_block = plan.ranges_per_block * slots_per_range;
  plan.num_map_blocks = static_cast<int>(base::ceil_div(num_ranges, plan.ranges_per_block));
}

}  // namespace gg::cuda
