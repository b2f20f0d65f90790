// A PermuteCase on the GPU: everything that permute writes equals what the stable
// sort says; by ids first, then, where E is known, by the map that they gave.
#pragma once

#include "cuda/support/device.h"
#include "support/permute_case.h"

namespace gg::test {

// Without the inverse where `with_inverse` is false: it is optional.
inline void expect_right(PermuteCase&& permute, bool with_inverse = true) {
  DeviceTensor input(permute.input), indices(permute.indices), output(permute.output),
      map(permute.row_id_map), counts(permute.tokens_per_expert), offsets(permute.offsets),
      slots(permute.slot_of_row), probs(permute.probs), permuted_probs(permute.permuted_probs),
      scales(permute.scales), permuted_scales(permute.permuted_scales);
  PermuteProblem problem = permute.problem();
  problem.input = input.view();
  problem.indices = indices.view();
  problem.output = output.view();
  problem.row_id_map = map.view();
  problem.slot_of_row = with_inverse ? slots.view() : TensorView{};
  if (permute.num_experts > 0) {
    problem.tokens_per_expert = counts.view();
    problem.offsets = offsets.view();
  }
  if (permute.options.has_probs) {
    problem.probs = probs.view();
    problem.permuted_probs = permuted_probs.view();
  }
  if (permute.options.num_scales > 0) {
    problem.scales = scales.view();
    problem.permuted_scales = permuted_scales.view();
  }
  run_on_device(problem);
  EXPECT_EQ(map.download().integers(), permute.expected_map());
  const auto expect_right_rows = [&] {
    EXPECT_EQ(output.download().values(), permute.expected_output());
    if (permute.options.has_probs) {
      EXPECT_EQ(permuted_probs.download().values(), permute.expected_probs());
    }
    if (permute.options.num_scales > 0) {
      EXPECT_EQ(permuted_scales.download().values(), permute.expected_scales());
    }
  };
  expect_right_rows();
  if (with_inverse) {
    EXPECT_EQ(slots.download().integers(), permute.expected_slot_of_row());
  }
  if (permute.num_experts > 0) {
    EXPECT_EQ(counts.download().integers(), permute.expected_tokens_per_expert());
    EXPECT_EQ(offsets.download().integers(), permute.expected_offsets());
  }
  if (permute.num_experts == 0) return;
  output.upload(permute.output);
  permuted_probs.upload(permute.permuted_probs);
  permuted_scales.upload(permute.permuted_scales);
  run_on_device(PermuteCase::by_its_map(problem));
  expect_right_rows();
}

}  // namespace gg::test
