// Token permutation: route every token's topK copies to their experts.
//
//   gg::PermuteProblem problem{.input = ..., .indices = ..., .output = ..., .row_id_map = ...};
//   gg::PermutePlan plan = gg::plan_permute(problem, gg::Target::cpu());
//   gg::run(plan, problem, gg::Workspace{memory, plan.workspace_bytes}, stream);
//
// Letters: T tokens, topK experts per token, h hidden size, E experts,
// slot = t * topK + k, the k-th copy of token t.
#pragma once

#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"

namespace gg {

// Slots are ordered by expert id, stably by slot. Row j of the output is the
// token of the j-th slot.
//
// With num_experts = 0 every id >= 0 is an expert and sorts as an integer, and
// ids below 0 are dropped. With num_experts > 0 ids outside [0, num_experts)
// are dropped. Dropped slots shift no group: their map entry is -1 and the rows
// at the end that they would have filled are zeros.
struct PermuteProblem {
  TensorView input{};       // [T, h] any of fp32, fp16, bf16, e4m3, e5m2; rows contiguous
  TensorView indices{};     // [T, topK] int32 or int64, contiguous
  TensorView output{};      // [num_out, h] contiguous; slots sorted at or beyond num_out are
                            // dropped, rows beyond the last slot are zeros
  TensorView row_id_map{};  // [topK, T] int32: entry [k, t] is slot (t, k)'s row, or -1
  int64_t num_experts = 0;
  TensorView tokens_per_expert{};  // optional, [num_experts] int32: kept ids, before num_out cuts
  TensorView offsets{};            // optional, [num_experts] int32: their cumulative ends
  TensorView slot_of_row{};        // optional, [num_out] int32, the map's inverse: the slot that
                                   // fills a row, or -1
};

struct PermutePlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;
  // CUDA: how the row map is sorted (src/cuda/permute/row_map_policy.h).
  int map_launches = 0;
  int num_map_blocks = 0;       // thread blocks of each launch
  int map_items = 0;            // slots of a thread at a time; 0: the sort for very many experts
  int map_pitch = 0;            // of the map's rows in shared memory; 0: written directly
  int64_t num_bins = 0;         // counting-sort bins; of unknown experts the last takes all larger
  int64_t slots_per_block = 0;  // consecutive slots that one thread block sorts
  int vector_bytes = 0;         // CUDA: width of one row access

  bool operator==(const PermutePlan&) const = default;
};

// Throws Error for anything wrong with the problem.
PermutePlan plan_permute(const PermuteProblem& problem, const Target& target);
void run(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const PermutePlan& plan);

}  // namespace gg
