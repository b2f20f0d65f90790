// Sinkhorn balancing of router logits: scale rows and columns of exp(cost)
// until every token carries 1/T and every expert 1/E.
#pragma once

#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"

namespace gg {

// C = exp(cost); from d0 = d1 = 1 repeat
//   d0 = 1 / (T (C d1 + eps)),  d1 = 1 / (E (C^T d0 + eps)),  eps = 1e-8,
// until mean |change of d1| <= tolerance or max_iterations are done;
// output = d1 * C * d0. Computed with row maxima subtracted, so that no finite
// logit overflows. The input is not changed.
struct SinkhornProblem {
  TensorView cost{};    // [T, E] fp32, bf16, fp16 (fp64 on the CPU), contiguous
  TensorView output{};  // [T, E], cost's dtype, contiguous
  double tolerance = 1e-4;
  int max_iterations = 100;
  TensorView iterations{};  // optional, [1] int32: iterations done
  TensorView error{};       // optional, [1] fp32: the last mean |change of d1|
};

struct SinkhornPlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;
  int num_blocks = 0;       // CUDA: a cooperative grid
  int num_chunks = 0;       // pieces of T whose column sums are added in order
  int values_per_lane = 0;  // CUDA: of a row in registers; 0: rows are too long for that
  bool keeps_rows = false;  // CUDA: the scaled matrix stays on the chip

  bool operator==(const SinkhornPlan&) const = default;
};

// Throws Error for anything wrong with the problem.
SinkhornPlan plan_sinkhorn(const SinkhornProblem& problem, const Target& target);
void run(const SinkhornPlan& plan, const SinkhornProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const SinkhornPlan& plan);

}  // namespace gg
