#include "cuda/permute/row_map_policy.h"

#include "base/check.h"
#include "base/math.h"

namespace gg::cuda {
namespace {

// Every block reads every other's counts, so there are few blocks; and they all
// run at once on 132 SMs. H200, 2026-11-22, 64 K and 1 M slots of 128 experts.
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

// Ints between the rows of a warp's part of the map, which is turned in shared
// memory where a warp has slots enough for runs of a few sectors.
int staged_map_pitch(int items, int64_t topk) {
  constexpr int kMaxTopK = 16;
  if (items < 8 || topk > kMaxTopK || topk == 0) return 0;
  const int tokens = 32 * items / static_cast<int>(topk) + 2;
  const int wanted = 32 / static_cast<int>(topk) % 32;  // a store's lanes hit 32 banks
  return tokens + (wanted - tokens % 32 + 32) % 32;
}

}  // namespace

void select_row_map(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits) {
  const int64_t num_slots = problem.indices.num_elements();
  const int64_t experts = problem.num_experts;
  const int64_t shared_bytes = limits.shared_bytes_per_block - kOtherSharedBytes;
  const int64_t max_bins = shared_bytes / 4;
  GG_REQUIRE(experts < max_bins, "permute: num_experts got ", experts, "; needs at most ",
             max_bins - 1, " on this device, which has ", limits.shared_bytes_per_block,
             " bytes of shared memory a block");
  const int64_t bins =
      experts > 0 ? padded_bins(static_cast<int>(experts)) : kFastBinsForUnknownExperts;

  if (experts > 0 && num_slots <= kOneBlockSlots &&
      fast_sort_bytes(bins, kOneBlockThreads) <= base::min(shared_bytes, kOneBlockSharedBytes)) {
    plan.map_launches = 1;
    plan.map_items = kOneBlockItems;
    plan.num_map_blocks = 1;
    plan.slots_per_block = kOneBlockSlots;
    plan.num_bins = bins;
    return;
  }
  const int64_t fast_bytes = fast_sort_bytes(bins, kMapThreads);
  const bool fast = experts == 0 || fast_bytes <= shared_bytes;
  plan.map_launches = 2;
  plan.map_items = fast ? items_for(num_slots) : 0;
  const int64_t topk = problem.indices.size(1);
  const int pitch = staged_map_pitch(plan.map_items, topk);
  const bool fits = fast_bytes + staged_map_bytes(pitch, topk, kMapThreads) <= shared_bytes;
  plan.map_pitch = fits ? pitch : 0;
  const int64_t tile = kMapThreads * base::max(plan.map_items, 1);
  plan.slots_per_block =
      base::max(tile, base::round_up(base::ceil_div(num_slots, kMaxBlocks), tile));
  plan.num_map_blocks =
      static_cast<int>(base::max(1, base::ceil_div(num_slots, plan.slots_per_block)));
  // Where E is unknown the last bin takes every larger id.
  plan.num_bins = experts == 0 ? kMaxCountedId + 1 : fast ? bins : experts;
}

}  // namespace gg::cuda
