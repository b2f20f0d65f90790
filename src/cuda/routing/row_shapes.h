// Which kernel holds a token's row of logits: how many lanes, how many values in
// each. Used by route.cu, route_bwd.cu and sinkhorn.cu.
#pragma once

#include "base/math.h"
#include "cuda/common/dispatch.h"
#include "grouped_gemm/route.h"

namespace gg::cuda {

template <int kLanesValue, int kValuesValue>
struct RowShape {
  static constexpr int kLanes = kLanesValue;
  static constexpr int kValues = kValuesValue;
};

// function(RowShape<>{}) for the smallest that holds that many experts.
template <typename Function>
void with_row_shape(int64_t num_experts, const Function& function) {
  if (num_experts <= 8) return function(RowShape<8, 1>{});
  if (num_experts <= 32) return function(RowShape<8, 4>{});
  if (num_experts <= 64) return function(RowShape<32, 2>{});
  if (num_experts <= 128) return function(RowShape<32, 4>{});
  if (num_experts <= 256) return function(RowShape<32, 8>{});
  if (num_experts <= 512) return function(RowShape<32, 16>{});
  return function(RowShape<32, 32>{});
}

template <typename Function>
void with_row_type(const char* op, DType dtype, const Function& function) {
  with_number_type(op, dtype, [&](auto tag) {
    if constexpr (sizeof(typename decltype(tag)::type) >= 2) function(tag);
  });
}

// Blocks that share a sequence's tokens, at most max_blocks over all sequences:
// a constant, so that sums are added in the same order on every GPU.
inline int route_pieces(int64_t tokens_per_sequence, int64_t num_sequences, int tokens_per_block,
                        int64_t max_blocks) {
  const int64_t most = base::max(1, max_blocks / num_sequences);
  return static_cast<int>(base::min(base::ceil_div(tokens_per_sequence, tokens_per_block), most));
}

}  // namespace gg::cuda
