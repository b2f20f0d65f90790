// Operands of one permute, and of the unpermute that follows it, with what the
// first should give, worked out independently of the library by a stable sort.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "grouped_gemm/permute.h"
#include "grouped_gemm/unpermute.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {

// What a permute may be asked for besides.
struct PermuteOptions {
  int64_t align_size = 1;
  int64_t capacity = kNoCapacity;
  DropPolicy drop_policy = DropPolicy::kPosition;
  bool has_probs = false;
  DType probs_dtype = DType::kFloat32;
  int64_t num_scales = 0;  // of a token; 0: none
};

struct PermuteCase {
  Tensor input;       // [T, h]
  Tensor indices;     // [T, topK]
  Tensor output;      // [num_out, h]
  Tensor row_id_map;  // [topK, T]
  int64_t num_experts;
  Tensor tokens_per_expert;  // [num_experts]
  Tensor offsets;            // [num_experts]
  Tensor slot_of_row;        // [num_out]
  PermuteOptions options;
  Tensor probs{DType::kFloat32, {0, 0}};            // [T, topK]
  Tensor permuted_probs{DType::kFloat32, {0}};      // [num_out]
  Tensor scales{DType::kFloat32, {0, 0}};           // [T, num_scales]
  Tensor permuted_scales{DType::kFloat32, {0, 0}};  // [num_out, num_scales]

  // num_out < 0: a row for every slot.
  PermuteCase(const std::vector<int64_t>& ids, int64_t topk, int64_t hidden, DType dtype,
              int64_t num_out = -1, int64_t experts = 0, DType id_dtype = DType::kInt64)
      : input(dtype, {static_cast<int64_t>(ids.size()) / topk, hidden}),
        indices(id_dtype, {input.size(0), topk}),
        output(dtype, {num_out < 0 ? indices.num_elements() : num_out, hidden}),
        row_id_map(DType::kInt32, {topk, input.size(0)}),
        num_experts(experts),
        tokens_per_expert(DType::kInt32, {experts}),
        offsets(DType::kInt32, {experts}),
        slot_of_row(DType::kInt32, {output.size(0)}) {
    indices.fill_integers(ids);
    fill_random(input, 6, -4, 4);
  }

  // With options, and rows for every routing where num_out < 0.
  PermuteCase(const std::vector<int64_t>& ids, int64_t topk, int64_t hidden, DType dtype,
              int64_t num_out, int64_t experts, const PermuteOptions& wanted)
      : PermuteCase(ids, topk, hidden, dtype, num_out, experts) {
    options = wanted;
    const int64_t num_tokens = indices.size(0);
    if (num_out < 0) {
      const int64_t num_rows = max_permuted_rows(problem());
      output = Tensor(dtype, {num_rows, hidden});
      slot_of_row = Tensor(DType::kInt32, {num_rows});
    }
    probs = Tensor(wanted.probs_dtype, {num_tokens, topk});
    permuted_probs = Tensor(wanted.probs_dtype, {output.size(0)});
    scales = Tensor(DType::kFloat32, {num_tokens, wanted.num_scales});
    permuted_scales = Tensor(DType::kFloat32, {output.size(0), wanted.num_scales});
    fill_random(probs, 20, -1, 1);
    fill_random(scales, 21, 1, 2);
  }

  PermuteProblem problem() const {
    PermuteProblem problem{.input = input.view(),
                           .indices = indices.view(),
                           .output = output.view(),
                           .row_id_map = row_id_map.view(),
                           .num_experts = num_experts,
                           .slot_of_row = slot_of_row.view(),
                           .align_size = options.align_size,
                           .capacity = options.capacity,
                           .drop_policy = options.drop_policy};
    if (num_experts > 0) {
      problem.tokens_per_expert = tokens_per_expert.view();
      problem.offsets = offsets.view();
    }
    if (options.has_probs) {
      problem.probs = probs.view();
      problem.permuted_probs = permuted_probs.view();
    }
    if (options.num_scales > 0) {
      problem.scales = scales.view();
      problem.permuted_scales = permuted_scales.view();
    }
    return problem;
  }

  // The same rows by the map and the groups' sizes and ends that a run has left.
  static PermuteProblem by_its_map(PermuteProblem problem) {
    problem.indices.data = nullptr;
    problem.slot_of_row = TensorView{};
    problem.capacity = kNoCapacity;
    problem.drop_policy = DropPolicy::kPosition;
    problem.map_is_given = true;
    return problem;
  }

  void poison() {
    for (Tensor* tensor : {&output, &row_id_map, &tokens_per_expert, &offsets, &slot_of_row,
                           &permuted_probs, &permuted_scales}) {
      tensor->poison();
    }
  }

  bool is_preferred(int64_t left, int64_t right) const {
    if (options.drop_policy == DropPolicy::kPosition) return left < right;
    const auto key = [&](int64_t slot) {
      const double prob = probs.get(slot);
      return std::isnan(prob) ? -INFINITY : prob;
    };
    return key(left) > key(right);
  }

  // The slots that an expert keeps, in order; of all ids >= 0 where E is unknown.
  std::vector<int64_t> slots_of(int64_t expert) const {
    const std::vector<int64_t> ids = indices.integers();
    std::vector<int64_t> slots;
    for (size_t slot = 0; slot < ids.size(); ++slot) {
      if (ids[slot] == expert) slots.push_back(static_cast<int64_t>(slot));
    }
    if (options.capacity == kNoCapacity) return slots;
    std::stable_sort(slots.begin(), slots.end(),
                     [&](int64_t left, int64_t right) { return is_preferred(left, right); });
    slots.resize(std::min(slots.size(), static_cast<size_t>(options.capacity)));
    std::sort(slots.begin(), slots.end());
    return slots;
  }

  // The slot of each row, -1 for pads, up to the last group's end.
  std::vector<int64_t> row_slots() const {
    const bool is_plain = options.align_size == 1 && options.capacity == kNoCapacity;
    if (is_plain) return sorted_slots();
    std::vector<int64_t> rows;
    for (int64_t e = 0; e < num_experts; ++e) {
      const std::vector<int64_t> slots = slots_of(e);
      rows.insert(rows.end(), slots.begin(), slots.end());
      while (static_cast<int64_t>(rows.size()) % options.align_size != 0) rows.push_back(-1);
    }
    return rows;
  }

  // Slots that are kept, by expert, stably.
  std::vector<int64_t> sorted_slots() const {
    const std::vector<int64_t> ids = indices.integers();
    std::vector<int64_t> slots;
    for (size_t slot = 0; slot < ids.size(); ++slot) {
      const bool is_kept = ids[slot] >= 0 && (num_experts == 0 || ids[slot] < num_experts);
      if (is_kept) slots.push_back(static_cast<int64_t>(slot));
    }
    std::stable_sort(slots.begin(), slots.end(), [&](int64_t left, int64_t right) {
      return ids[static_cast<size_t>(left)] < ids[static_cast<size_t>(right)];
    });
    return slots;
  }

  std::vector<int64_t> expected_map() const {
    const int64_t topk = indices.size(1);
    std::vector<int64_t> map(static_cast<size_t>(row_id_map.num_elements()), -1);
    const std::vector<int64_t> slots = expected_slot_of_row();
    for (size_t row = 0; row < slots.size(); ++row) {
      if (slots[row] < 0) continue;
      const int64_t entry = slots[row] % topk * input.size(0) + slots[row] / topk;
      map[static_cast<size_t>(entry)] = static_cast<int64_t>(row);
    }
    return map;
  }

  // A row of `from` for each slot's row, `slots_per_row` slots a row; zeros elsewhere.
  std::vector<double> rows_of(const Tensor& from, int64_t width, int64_t slots_per_row) const {
    std::vector<double> rows(static_cast<size_t>(output.size(0) * width), 0.0);
    const std::vector<int64_t> slots = expected_slot_of_row();
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t slot = slots[i / static_cast<size_t>(width)];
      if (slot < 0) continue;
      rows[i] = from.get(slot / slots_per_row * width + static_cast<int64_t>(i) % width);
    }
    return rows;
  }

  std::vector<double> expected_output() const {
    return rows_of(input, input.size(1), indices.size(1));
  }
  std::vector<double> expected_probs() const { return rows_of(probs, 1, 1); }
  std::vector<double> expected_scales() const {
    return rows_of(scales, options.num_scales, indices.size(1));
  }

  std::vector<int64_t> expected_slot_of_row() const {
    std::vector<int64_t> slots = row_slots();
    slots.resize(static_cast<size_t>(output.size(0)), -1);
    return slots;
  }

  std::vector<int64_t> expected_tokens_per_expert() const {
    std::vector<int64_t> counts(static_cast<size_t>(num_experts), 0);
    for (int64_t id : indices.integers()) {
      if (id < 0 || id >= num_experts) continue;
      int64_t& count = counts[static_cast<size_t>(id)];
      if (options.capacity == kNoCapacity || count < options.capacity) ++count;
    }
    return counts;
  }

  std::vector<int64_t> expected_offsets() const {
    std::vector<int64_t> ends = expected_tokens_per_expert();
    int64_t end = 0;
    for (int64_t& count : ends) {
      end += (count + options.align_size - 1) / options.align_size * options.align_size;
      count = end;
    }
    return ends;
  }

  void expect_right() const {
    EXPECT_EQ(row_id_map.integers(), expected_map());
    EXPECT_EQ(slot_of_row.integers(), expected_slot_of_row());
    EXPECT_EQ(output.values(), expected_output());
    if (num_experts > 0) {
      EXPECT_EQ(tokens_per_expert.integers(), expected_tokens_per_expert());
      EXPECT_EQ(offsets.integers(), expected_offsets());
    }
    if (options.has_probs) {
      EXPECT_EQ(permuted_probs.values(), expected_probs());
    }
    if (options.num_scales > 0) {
      EXPECT_EQ(permuted_scales.values(), expected_scales());
    }
    for (const Tensor* tensor :
         {&input, &indices, &output, &row_id_map, &tokens_per_expert, &offsets, &slot_of_row,
          &probs, &permuted_probs, &scales, &permuted_scales}) {
      EXPECT_TRUE(tensor->guards_intact());
    }
  }
};

}  // namespace gg::test
