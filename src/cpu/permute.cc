// permute on the CPU. Start at permute() at the end: row map, then rows.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/math.h"
#include "cpu/dispatch.h"
#include "cpu/door.h"
#include "cpu/parallel.h"

namespace gg::cpu {
namespace {

// Ids below this are counted; a larger one among them means sorting instead.
constexpr int64_t kMaxCountedBins = 4096;

struct Slots {
  const PermuteProblem& problem;
  int64_t num_tokens = problem.indices.size(0);
  int64_t topk = problem.indices.size(1);

  int64_t count() const { return num_tokens * topk; }
  int64_t expert(int64_t slot) const { return load_integer(problem.indices, slot); }
  bool is_dropped(int64_t slot) const {
    const int64_t id = expert(slot);
    return id < 0 || (problem.num_experts > 0 && id >= problem.num_experts);
  }
  // Writes the map entry of a slot that comes `row`-th in expert order.
  void place(int64_t slot, int64_t row) const {
    int32_t* map = static_cast<int32_t*>(problem.row_id_map.data);
    const bool kept = row >= 0 && row < problem.output.size(0);
    map[slot % topk * num_tokens + slot / topk] = kept ? static_cast<int32_t>(row) : -1;
    if (kept && problem.slot_of_row.defined()) {
      static_cast<int32_t*>(problem.slot_of_row.data)[row] = static_cast<int32_t>(slot);
    }
  }
};

// The meaning of the order: sort the kept slots by (id, slot). Returns how many.
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
  for (int64_t row = 0; row < num_kept; ++row) slots.place(order[row], row);
  return num_kept;
}

// The same order by counting: next[id] is the row of the id's next slot.
int64_t row_map_by_counting(const Slots& slots, int64_t num_bins, int32_t* next) {
  std::fill(next, next + num_bins, 0);
  for (int64_t slot = 0; slot < slots.count(); ++slot) {
    if (!slots.is_dropped(slot)) ++next[slots.expert(slot)];
  }
  int32_t row = 0;
  for (int64_t bin = 0; bin < num_bins; ++bin) row += std::exchange(next[bin], row);
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
  int32_t end = 0;
  for (int64_t e = 0; e < problem.num_experts; ++e) ends[e] = end += counts[e];
}

void mark_empty_rows(const PermuteProblem& problem, int64_t first_empty_row) {
  if (!problem.slot_of_row.defined()) return;
  int32_t* slots = static_cast<int32_t*>(problem.slot_of_row.data);
  for (int64_t row = first_empty_row; row < problem.output.size(0); ++row) slots[row] = -1;
}

void copy_rows(const PermuteProblem& problem, int64_t first_empty_row, Stream stream) {
  const int64_t num_tokens = problem.indices.size(0);
  const int64_t topk = problem.indices.size(1);
  const int64_t element_bytes = size_of(problem.input.dtype);
  const int64_t row_bytes = problem.input.size(1) * element_bytes;
  const int64_t input_stride = problem.input.stride(0) * element_bytes;
  const char* input = static_cast<const char*>(problem.input.data);
  const int32_t* map = static_cast<const int32_t*>(problem.row_id_map.data);
  char* output = static_cast<char*>(problem.output.data);
  if (row_bytes == 0) return;
  parallel_for(stream, num_tokens, rows_per_piece(row_bytes * topk),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   for (int64_t k = 0; k < topk; ++k) {
                     const int64_t row = map[k * num_tokens + t];
                     if (row < 0) continue;
                     std::memcpy(output + row * row_bytes, input + t * input_stride,
                                 static_cast<size_t>(row_bytes));
                   }
                 }
               });
  const int64_t num_empty = problem.output.size(0) - first_empty_row;
  if (num_empty <= 0) return;
  std::memset(output + first_empty_row * row_bytes, 0, static_cast<size_t>(num_empty * row_bytes));
}

}  // namespace

int64_t permute_workspace_bytes(const PermuteProblem& problem) {
  const int64_t num_slots = problem.indices.num_elements();
  return base::max(num_slots, num_counted_bins(problem)) * int64_t{sizeof(int32_t)};
}

void permute(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
             Stream stream) {
  const Slots slots{problem};
  int32_t* scratch = static_cast<int32_t*>(workspace.data);
  const bool counting = plan.path == Path::kParallel && all_ids_are_countable(slots);
  const int64_t num_kept = counting ? row_map_by_counting(slots, num_counted_bins(problem), scratch)
                                    : row_map_by_sorting(slots, scratch);
  write_group_sizes(slots);
  mark_empty_rows(problem, num_kept);
  if (plan.path == Path::kReference) stream = serial_stream();
  copy_rows(problem, num_kept, stream);
}

}  // namespace gg::cpu
