// The operators' schemas, and their registration for the CPU. The CUDA library
// registers the same functions for CUDA tensors (library_cuda.cc).
//
// Leading underscore: none of these has a gradient; grouped_gemm's autograd
// Functions (python/grouped_gemm/_autograd.py) put them together.
// Every count is a SymInt: torch.compile would compile again for each value of an int.
#include <torch/csrc/stable/library.h>

#include "torch/ops.h"

STABLE_TORCH_LIBRARY(grouped_gemm, m) {
  // a [T,K]; b [E,K,N], or [E,N,K] with trans_b; sizes [E] int32 or int64, on
  // a's device or the CPU: row counts, or their cumulative ends; allow_tf32 of
  // fp32 operands (python/grouped_gemm/_precision.py). -> [T,N]
  m.def(
      "_gmm(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b, "
      "ScalarType? out_dtype, bool allow_tf32=False) -> Tensor");
  m.def(
      "_gmm_out(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b, "
      "Tensor(a!) out, bool allow_tf32=False) -> ()");
  // a [T,K], dy [T,N] -> [E,K,N], or [E,N,K] with trans_b.
  m.def(
      "_gmm_wgrad(Tensor a, Tensor dy, Tensor sizes, bool cumulative, bool trans_b, "
      "ScalarType? out_dtype, bool allow_tf32=False) -> Tensor");
  m.def(
      "_gmm_wgrad_out(Tensor a, Tensor dy, Tensor sizes, bool cumulative, bool trans_b, "
      "Tensor(a!) out, bool accumulate, bool allow_tf32=False) -> ()");
  // x [T,h], indices [T,topK] or [T]; num_out_tokens 0 means all slots.
  // -> permuted rows, row_id_map int32 [topK * T]
  m.def("_permute(Tensor x, Tensor indices, SymInt num_out_tokens) -> (Tensor, Tensor)");
  // probs [T,topK], scales [T,s] and capacity where wanted -> permuted rows, row_id_map int32
  // [topK,T], tokens_per_expert int32 [E], offs int32 [E], permuted probs and scales, a value or
  // row for each permuted row; what is not asked for comes back empty.
  m.def(
      "_moe_permute(Tensor x, Tensor indices, SymInt num_experts, Tensor? probs=None, "
      "Tensor? scales=None, SymInt align_size=1, SymInt? capacity=None, bool drop_by_probs=False) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // The same rows, probs and scales by a map that is there: row_id_map [topK,T],
  // tokens_per_expert [E] and offs [E] int32, made of as many slots with this align_size.
  m.def(
      "_permute_by_map(Tensor x, Tensor row_id_map, Tensor tokens_per_expert, Tensor offs, "
      "Tensor? probs=None, Tensor? scales=None, SymInt align_size=1) -> (Tensor, Tensor, Tensor)");
  // grad [N] of permuted probs, row_id_map [topK,T] -> gradient of probs [T,topK]
  m.def("_permute_probs_bwd(Tensor grad, Tensor row_id_map) -> Tensor");
  // x [N,h], row_id_map of topk * T entries, probs [T,topk], residual [T,h] -> [T,h];
  // for topk = 0 a map [0,T] or probs tell T
  m.def(
      "_unpermute(Tensor x, Tensor row_id_map, Tensor? probs, SymInt topk, "
      "Tensor? residual=None) -> Tensor");
  // grad [T,h] -> gradient of x [num_rows,h] if needed, and of probs [T,topk] if
  // x is given; what is not asked for comes back empty.
  m.def(
      "_unpermute_bwd(Tensor grad, Tensor? x, Tensor row_id_map, Tensor? probs, SymInt topk, "
      "SymInt num_rows, bool needs_x_grad) -> (Tensor, Tensor)");
  // x [N,h], split_sizes [C], sorted_index [C], probs [N] -> rows, row_id_map int32 [1,N], probs
  // (empty without)
  m.def(
      "_sort_chunks(Tensor x, Tensor split_sizes, Tensor sorted_index, Tensor? probs=None) -> "
      "(Tensor, Tensor, Tensor)");
  // routing_map bool [T,E] -> int32 [T,topk]: the experts of each token, then -1
  m.def("_routing_map_to_indices(Tensor routing_map, SymInt topk) -> Tensor");
  // cost [T,E] -> balanced [T,E], iterations int32 [1], error float32 [1]
  m.def("_sinkhorn(Tensor cost, float tol, SymInt max_iterations) -> (Tensor, Tensor, Tensor)");
  // logits [T,E], expert_bias [E] -> probs [T,topk], indices int32 [T,topk],
  // tokens_per_expert int32 [S,E], and with_sums score_sums [S,E], z_sums [S] (else
  // [0,E], [0]) for S = num_sequences runs of tokens; with_row_map row_id_map int32 [topk,T],
  // offs int32 [E] (else [0,T], [0]) as _moe_permute makes them; include/grouped_gemm/route.h
  m.def(
      "_route(Tensor logits, Tensor? expert_bias, SymInt topk, bool sigmoid, bool pre_softmax, "
      "bool normalize_topk, SymInt num_groups, SymInt group_topk, SymInt group_score_topk, "
      "float scaling_factor, SymInt num_sequences, bool with_sums, bool with_row_map=False, "
      "SymInt align_size=1) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // Gradient of the logits, from those of probs (beside which it needs probs) and of
  // the two sums.
  m.def(
      "_route_bwd(Tensor logits, Tensor indices, Tensor? probs, Tensor? probs_grad, "
      "Tensor? score_sums_grad, Tensor? z_sums_grad, SymInt topk, bool sigmoid, bool pre_softmax, "
      "bool normalize_topk, float scaling_factor, SymInt num_sequences) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(grouped_gemm, CPU, m) { GG_REGISTER_OPERATORS(m); }
