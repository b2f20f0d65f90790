// The way back from expert order to token order, and its backward pass.
// Letters as in permute.h; N rows in expert order.
#pragma once

#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"

namespace gg {

// output[t] = sum over k of probs[t, k] * input[row_id_map[k, t]], accumulated
// in fp32 in k order and rounded once. Entries outside [0, N) contribute 0,
// whatever their prob. Without probs every weight is 1. A residual is added last,
// before the rounding.
struct UnpermuteProblem {
  TensorView input{};       // [N, h] any of fp32, fp16, bf16, e4m3, e5m2, fp64 (CPU)
  TensorView row_id_map{};  // [topK, T] int32 or int64, contiguous
  TensorView probs{};       // optional, [T, topK] fp32, bf16, fp16, fp64 (CPU), contiguous
  TensorView output{};      // [T, h] contiguous
  TensorView residual{};    // optional, [T, h] of input's dtype; rows contiguous
};

// Gradients of the above. Rows of input_grad that no map entry names are zeros;
// map entries that are not dropped must differ from each other.
struct UnpermuteBwdProblem {
  TensorView output_grad{};  // [T, h]; rows contiguous
  TensorView input{};        // [N, h], needed for probs_grad alone
  TensorView row_id_map{};   // [topK, T]
  TensorView probs{};        // optional, [T, topK]
  TensorView input_grad{};   // optional, [N, h]: probs * output_grad
  TensorView probs_grad{};   // optional, [T, topK] fp32 (fp64 for fp64): row dot products
};

struct UnpermutePlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;
  int vector_bytes = 0;  // CUDA: width of one row access

  bool operator==(const UnpermutePlan&) const = default;
};

// Throw Error for anything wrong with the problem.
UnpermutePlan plan_unpermute(const UnpermuteProblem& problem, const Target& target);
UnpermutePlan plan_unpermute_bwd(const UnpermuteBwdProblem& problem, const Target& target);
void run(const UnpermutePlan& plan, const UnpermuteProblem& problem, Workspace workspace,
         Stream stream = {});
void run(const UnpermutePlan& plan, const UnpermuteBwdProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const UnpermutePlan& plan);

}  // namespace gg
