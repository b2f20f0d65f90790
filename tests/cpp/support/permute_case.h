// Operands of one permute, and of the unpermute that follows it, with what the
// first should give, worked out independently of the library by a stable sort.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "grouped_gemm/permute.h"
#include "grouped_gemm/unpermute.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {

struct PermuteCase {
  Tensor input;       // [T, h]
  Tensor indices;     // [T, topK]
  Tensor output;      // [num_out, h]
  Tensor row_id_map;  // [topK, T]
  int64_t num_experts;
  Tensor tokens_per_expert;  // [num_experts]
  Tensor offsets;            // [num_experts]
  Tensor slot_of_row;        // [num_out]

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

  PermuteProblem problem() const {
    PermuteProblem problem{.input = input.view(),
                           .indices = indices.view(),
                           .output = output.view(),
                           .row_id_map = row_id_map.view(),
                           .num_experts = num_experts,
                           .slot_of_row = slot_of_row.view()};
    if (num_experts > 0) {
      problem.tokens_per_expert = tokens_per_expert.view();
      problem.offsets = offsets.view();
    }
    return problem;
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
    const std::vector<int64_t> slots = sorted_slots();
    for (size_t row = 0; row < slots.size(); ++row) {
      if (static_cast<int64_t>(row) >= output.size(0)) break;
      const int64_t entry = slots[row] % topk * input.size(0) + slots[row] / topk;
      map[static_cast<size_t>(entry)] = static_cast<int64_t>(row);
    }
    return map;
  }

  // Tokens in the slots' order, then rows of zeros.
  std::vector<double> expected_output() const {
    const int64_t hidden = input.size(1);
    std::vector<double> rows(static_cast<size_t>(output.num_elements()), 0.0);
    const std::vector<int64_t> slots = sorted_slots();
    for (int64_t i = 0; i < output.num_elements(); ++i) {
      const size_t row = static_cast<size_t>(i / hidden);
      if (row >= slots.size()) break;
      const int64_t token = slots[row] / indices.size(1);
      rows[static_cast<size_t>(i)] = input.get(token * hidden + i % hidden);
    }
    return rows;
  }

  std::vector<int64_t> expected_slot_of_row() const {
    std::vector<int64_t> slots = sorted_slots();
    slots.resize(static_cast<size_t>(output.size(0)), -1);
    return slots;
  }

  std::vector<int64_t> expected_tokens_per_expert() const {
    std::vector<int64_t> counts(static_cast<size_t>(num_experts), 0);
    for (int64_t id : indices.integers()) {
      if (id >= 0 && id < num_experts) ++counts[static_cast<size_t>(id)];
    }
    return counts;
  }

  std::vector<int64_t> expected_offsets() const {
    std::vector<int64_t> ends = expected_tokens_per_expert();
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
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
    for (const Tensor* tensor :
         {&input, &indices, &output, &row_id_map, &tokens_per_expert, &offsets, &slot_of_row}) {
      EXPECT_TRUE(tensor->guards_intact());
    }
  }
};

}  // namespace gg::test
