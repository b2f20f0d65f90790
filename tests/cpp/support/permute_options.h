// Every combination of what a permute may be asked for besides, on one routing.
#pragma once

#include <limits>

#include "base/check.h"
#include "support/permute_case.h"

namespace gg::test {

inline const std::vector<PermuteOptions>& permute_options() {
  constexpr DropPolicy kFirst = DropPolicy::kPosition;
  constexpr DropPolicy kBest = DropPolicy::kProbs;
  static const std::vector<PermuteOptions> options = {
      {.has_probs = true},
      {.has_probs = true, .probs_dtype = DType::kBFloat16},
      {.num_scales = 3},
      {.num_scales = 56},
      {.align_size = 2},
      {.align_size = 16, .has_probs = true, .num_scales = 4},
      {.align_size = 128, .has_probs = true, .probs_dtype = DType::kFloat16},
      {.capacity = 0, .drop_policy = kFirst, .has_probs = true},
      {.capacity = 0, .drop_policy = kBest, .has_probs = true},
      {.capacity = 1, .drop_policy = kFirst},
      {.capacity = 1, .drop_policy = kBest, .has_probs = true},
      {.align_size = 16, .capacity = 20, .drop_policy = kFirst, .has_probs = true},
      {.align_size = 16, .capacity = 20, .drop_policy = kBest, .has_probs = true, .num_scales = 2},
      {.capacity = 20, .drop_policy = kBest, .has_probs = true, .probs_dtype = DType::kBFloat16},
      {.capacity = 1000, .drop_policy = kBest, .has_probs = true},
      {.capacity = std::numeric_limits<int64_t>::max(), .drop_policy = kFirst},
  };
  return options;
}

inline std::string options_text(const PermuteOptions& options) {
  return base::concat("align_size=", options.align_size, " capacity=", options.capacity,
                      options.drop_policy == DropPolicy::kProbs ? " by probs" : " by position",
                      " probs=", options.has_probs ? to_string(options.probs_dtype) : "none",
                      " scales=", options.num_scales);
}

}  // namespace gg::test
