// Where every slot's row goes. Start at write_row_map() at the end.
#include "cpu/row_map.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/math.h"
#include "cpu/dispatch.h"

namespace gg::cpu {
namespace {

// Ids below this are counted; a larger one among them means sorting instead.
constexpr int64_t kMaxCountedBins = 4096;

struct Slots {
  const PermuteProblem& problem;
  const uint8_t* is_over_capacity = nullptr;  // a flag for each slot where there is a capacity
  int64_t num_tokens = problem.indices.size(0);
  int64_t topk = problem.indices.size(1);

  int64_t count() const { return num_tokens * topk; }
  int64_t expert(int64_t slot) const { return load_integer(problem.indices, slot); }
  bool has_expert(int64_t slot) const {
    const int64_t id = expert(slot);
    return id >= 0 && (problem.num_experts == 0 || id < problem.num_experts);
  }
  bool is_dropped(int64_t slot) const {
    return !has_expert(slot) || (is_over_capacity != nullptr && is_over_capacity[slot] != 0);
  }
  int64_t end_of_group(int64_t row) const { return base::round_up(row, problem.align_size); }
  // Writes the map entry of a slot whose row it is; -1: dropped.
  void place(int64_t slot, int64_t row) const {
    int32_t* map = static_cast<int32_t*>(problem.row_id_map.data);
    const bool kept = row >= 0 && row < problem.output.size(0);
    map[slot % topk * num_tokens + slot / topk] = kept ? static_cast<int32_t>(row) : -1;
    if (kept && problem.slot_of_row.defined()) {
      static_cast<int32_t*>(problem.slot_of_row.data)[row] = static_cast<int32_t>(slot);
    }
  }
};

// NaN is the lowest of all.
double prob_key(const TensorView& probs, int64_t slot) {
  const double prob = load_float(probs, slot);
  return std::isnan(prob) ? -std::numeric_limits<double>::infinity() : prob;
}

// Flags what the experts get beyond their capacity: each one's slots in order of
// preference, from the capacity-th on.
void find_over_capacity(const Slots& slots, int32_t* order, uint8_t* is_over) {
  const PermuteProblem& problem = slots.problem;
  const bool by_probs = problem.drop_policy == DropPolicy::kProbs;
  std::fill(is_over, is_over + slots.count(), uint8_t{0});
  int64_t num_slots = 0;
  for (int64_t slot = 0; slot < slots.count(); ++slot) {
    if (slots.has_expert(slot)) order[num_slots++] = static_cast<int32_t>(slot);
  }
  std::sort(order, order + num_slots, [&](int32_t left, int32_t right) {
    const int64_t left_id = slots.expert(left);
    const int64_t right_id = slots.expert(right);
    if (left_id != right_id) return left_id < right_id;
    if (by_probs) {
      const double left_key = prob_key(problem.probs, left);
      const double right_key = prob_key(problem.probs, right);
      if (left_key != right_key) return left_key > right_key;
    }
    return left < right;
  });
  int64_t first_of_expert = 0;
  for (int64_t i = 0; i < num_slots; ++i) {
    if (slots.expert(order[i]) != slots.expert(order[first_of_expert])) first_of_expert = i;
    is_over[order[i]] = i - first_of_expert >= problem.capacity;
  }
}

// The meaning of the order: sort the kept slots by (id, slot). Returns where the
// last group ends.
int64_t row_map_by_sorting(const Slots& slots, int32_t* order) {
  int64_t num_kept = 0;
  for (int64_t slot = 0; slot < slots.count(); ++slot) {
    if (slots.is_dropped(slot)) {
      slots.place(slot, -1);
    } else {
      order[num_kept++] = static_cast<int32_t>(slot);
    }
  }
  std::sort(order, order + num_kept, [&](int32_t left, int32_t right) {
    const int64_t left_id = slots.expert(left);
    const int64_t right_id = slots.expert(right);
    return left_id != right_id ? left_id < right_id : left < right;
  });
  int64_t row = 0;
  for (int64_t i = 0; i < num_kept; ++i) {
    const bool starts_group = i > 0 && slots.expert(order[i]) != slots.expert(order[i - 1]);
    if (starts_group) row = slots.end_of_group(row);
    slots.place(order[i], row++);
  }
  return slots.end_of_group(row);
}

// The same order by counting: next[id] is the row of the id's next slot.
int64_t row_map_by_counting(const Slots& slots, int64_t num_bins, int32_t* next) {
  std::fill(next, next + num_bins, 0);
  for (int64_t slot = 0; slot < slots.count(); ++slot) {
    if (!slots.is_dropped(slot)) ++next[slots.expert(slot)];
  }
  int64_t row = 0;
  for (int64_t bin = 0; bin < num_bins; ++bin) {
    const int64_t end = slots.end_of_group(row + next[bin]);
    next[bin] = static_cast<int32_t>(row);
    row = end;
  }
  for (int64_t slot = 0; slot < slots.count(); ++slot) {
    slots.place(slot, slots.is_dropped(slot) ? -1 : next[slots.expert(slot)]++);
  }
  return row;
}

int64_t num_counted_bins(const PermuteProblem& problem) {
  return problem.num_experts > 0 ? problem.num_experts : kMaxCountedBins;
}

bool all_ids_are_countable(const Slots& slots) {
  if (slots.problem.num_experts > 0) return true;
  for (int64_t slot = 0; slot < slots.count(); ++slot) {
    if (slots.expert(slot) >= kMaxCountedBins) return false;
  }
  return true;
}

void write_group_sizes(const Slots& slots) {
  const PermuteProblem& problem = slots.problem;
  if (!problem.tokens_per_expert.defined()) return;
  int32_t* counts = static_cast<int32_t*>(problem.tokens_per_expert.data);
  int32_t* ends = static_cast<int32_t*>(problem.offsets.data);
  std::fill(counts, counts + problem.num_experts, 0);
  for (int64_t slot = 0; slot < slots.count(); ++slot) {
    if (!slots.is_dropped(slot)) ++counts[slots.expert(slot)];
  }
  int64_t end = 0;
  for (int64_t e = 0; e < problem.num_experts; ++e) {
    end = slots.end_of_group(end + counts[e]);
    ends[e] = static_cast<int32_t>(end);
  }
}

// One int for each slot or bin, then what find_over_capacity needs.
int64_t num_scratch_ints(const PermuteProblem& problem) {
  return base::max(problem.indices.num_elements(), num_counted_bins(problem));
}

}  // namespace

int64_t row_map_workspace_bytes(const PermuteProblem& problem) {
  const int64_t flags = problem.capacity == kNoCapacity ? 0 : problem.indices.num_elements();
  return num_scratch_ints(problem) * int64_t{sizeof(int32_t)} + flags;
}

int64_t write_row_map(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace) {
  Slots slots{problem};
  int32_t* scratch = static_cast<int32_t*>(workspace.data);
  if (problem.capacity != kNoCapacity) {
    uint8_t* flags = reinterpret_cast<uint8_t*>(scratch + num_scratch_ints(problem));
    find_over_capacity(slots, scratch, flags);
    slots.is_over_capacity = flags;
  }
  if (problem.slot_of_row.defined()) {
    int32_t* slot_of_row = static_cast<int32_t*>(problem.slot_of_row.data);
    std::fill(slot_of_row, slot_of_row + problem.output.size(0), -1);
  }
  write_group_sizes(slots);
  const bool counting = plan.path == Path::kParallel && all_ids_are_countable(slots);
  return counting ? row_map_by_counting(slots, num_counted_bins(problem), scratch)
                  : row_map_by_sorting(slots, scratch);
}

}  // namespace gg::cpu
