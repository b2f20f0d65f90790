// The torch operators, the same functions for the CPU and for CUDA: views from
// tensors, plan, scratch from PyTorch's allocator, run. A file of this folder
// for each operator; schemas with the meaning of each argument: library.cc.
#pragma once

#include <optional>
#include <tuple>

#include "torch/convert.h"

namespace gg::torch_binding {

// Takes scratch and runs: the last step of every operator.
template <typename Plan, typename Problem>
void run_on(const Device& device, const Tensor& like, const Plan& plan, const Problem& problem) {
  const ScratchMemory scratch(like, plan.workspace_bytes);
  run(plan, problem, scratch.workspace(), device.stream());
}

Tensor gmm(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b,
           std::optional<ScalarType> out_dtype, bool allow_tf32);
void gmm_out(Tensor a, Tensor b, Tensor sizes, bool cumulative, bool trans_b, Tensor out,
             bool allow_tf32);
Tensor gmm_wgrad(Tensor a, Tensor dy, Tensor sizes, bool cumulative, bool trans_b,
                 std::optional<ScalarType> out_dtype, bool allow_tf32);
void gmm_wgrad_out(Tensor a, Tensor dy, Tensor sizes, bool cumulative, bool trans_b, Tensor out,
                   bool accumulate, bool allow_tf32);

std::tuple<Tensor, Tensor> permute(Tensor x, Tensor indices, int64_t num_out_tokens);
// Permuted rows, row_id_map, tokens_per_expert, offs, permuted probs and scales.
using MoePermuted = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
MoePermuted moe_permute(Tensor x, Tensor indices, int64_t num_experts, std::optional<Tensor> probs,
                        std::optional<Tensor> scales, int64_t align_size,
                        std::optional<int64_t> capacity, bool drop_by_probs);
// Permuted rows, probs and scales.
std::tuple<Tensor, Tensor, Tensor> permute_by_map(Tensor x, Tensor row_id_map,
                                                  Tensor tokens_per_expert, Tensor offs,
                                                  std::optional<Tensor> probs,
                                                  std::optional<Tensor> scales, int64_t align_size);
Tensor permute_probs_bwd(Tensor grad, Tensor row_id_map);
Tensor unpermute(Tensor x, Tensor row_id_map, std::optional<Tensor> probs, int64_t topk,
                 std::optional<Tensor> residual);
std::tuple<Tensor, Tensor> unpermute_bwd(Tensor grad, std::optional<Tensor> x, Tensor row_id_map,
                                         std::optional<Tensor> probs, int64_t topk,
                                         int64_t num_rows, bool needs_x_grad);

std::tuple<Tensor, Tensor, Tensor> sort_chunks(Tensor x, Tensor split_sizes, Tensor sorted_index,
                                               std::optional<Tensor> probs);
Tensor routing_map_to_indices(Tensor routing_map, int64_t topk);
std::tuple<Tensor, Tensor, Tensor> sinkhorn(Tensor cost, double tol, int64_t max_iterations);

// Probs, indices, tokens_per_expert, score and z sums, row_id_map, offs.
using Routed = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
Routed route(Tensor logits, std::optional<Tensor> expert_bias, int64_t topk, bool sigmoid,
             bool pre_softmax, bool normalize_topk, int64_t num_groups, int64_t group_topk,
             int64_t group_score_topk, double scaling_factor, int64_t num_sequences, bool with_sums,
             bool with_row_map, int64_t align_size);
Tensor route_bwd(Tensor logits, Tensor indices, std::optional<Tensor> probs,
                 std::optional<Tensor> probs_grad, std::optional<Tensor> score_sums_grad,
                 std::optional<Tensor> z_sums_grad, int64_t topk, bool sigmoid, bool pre_softmax,
                 bool normalize_topk, double scaling_factor, int64_t num_sequences);

}  // namespace gg::torch_binding

// Registers every operator for one dispatch key; used once by library.cc and
// once by library_cuda.cc.
#define GG_REGISTER_OPERATORS(m)                                                                \
  do {                                                                                          \
    (m).impl("_gmm", TORCH_BOX(&gg::torch_binding::gmm));                                       \
    (m).impl("_gmm_out", TORCH_BOX(&gg::torch_binding::gmm_out));                               \
    (m).impl("_gmm_wgrad", TORCH_BOX(&gg::torch_binding::gmm_wgrad));                           \
    (m).impl("_gmm_wgrad_out", TORCH_BOX(&gg::torch_binding::gmm_wgrad_out));                   \
    (m).impl("_permute", TORCH_BOX(&gg::torch_binding::permute));                               \
    (m).impl("_moe_permute", TORCH_BOX(&gg::torch_binding::moe_permute));                       \
    (m).impl("_permute_by_map", TORCH_BOX(&gg::torch_binding::permute_by_map));                 \
    (m).impl("_permute_probs_bwd", TORCH_BOX(&gg::torch_binding::permute_probs_bwd));           \
    (m).impl("_unpermute", TORCH_BOX(&gg::torch_binding::unpermute));                           \
    (m).impl("_unpermute_bwd", TORCH_BOX(&gg::torch_binding::unpermute_bwd));                   \
    (m).impl("_routing_map_to_indices", TORCH_BOX(&gg::torch_binding::routing_map_to_indices)); \
    (m).impl("_sort_chunks", TORCH_BOX(&gg::torch_binding::sort_chunks));                       \
    (m).impl("_sinkhorn", TORCH_BOX(&gg::torch_binding::sinkhorn));                             \
    (m).impl("_route", TORCH_BOX(&gg::torch_binding::route));                                   \
    (m).impl("_route_bwd", TORCH_BOX(&gg::torch_binding::route_bwd));                           \
  } while (0)
