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

// Which slots an expert keeps that gets more than its capacity.
enum class DropPolicy : uint8_t {
  kPosition,  // the first ones
  kProbs,     // those of the highest probs, among equals the first (NaN is the lowest)
};

inline constexpr int64_t kNoCapacity = -1;

// Slots are ordered by expert id, stably by slot. Row j of the output is the
// token of the j-th slot.
//
// With num_experts = 0 every id >= 0 is an expert and sorts as an integer, and
// ids below 0 are dropped. With num_experts > 0 ids outside [0, num_experts)
// are dropped, and so is what an expert gets beyond its capacity. Dropped slots
// shift no group: their map entry is -1 and the rows at the end that they would
// have filled are zeros.
//
// With align_size > 1 each group's rows are padded to a multiple of it, so that
// every group begins and ends at one; an empty group stays empty. Pad rows are
// zeros. max_permuted_rows() says how many rows the output may need.
struct PermuteProblem {
  TensorView input{};       // [T, h] any of fp32, fp16, bf16, e4m3, e5m2; rows contiguous
  TensorView indices{};     // [T, topK] int32 or int64, contiguous
  TensorView output{};      // [num_out, h] contiguous; slots sorted at or beyond num_out are
                            // dropped, rows beyond the last slot are zeros
  TensorView row_id_map{};  // [topK, T] int32: entry [k, t] is slot (t, k)'s row, or -1
  int64_t num_experts = 0;
  TensorView tokens_per_expert{};  // optional, [num_experts] int32: kept slots, before num_out cuts
  TensorView offsets{};            // optional, [num_experts] int32: cumulative ends, pads included
  TensorView slot_of_row{};        // optional, [num_out] int32, the map's inverse: the slot that
                                   // fills a row, or -1
  TensorView probs{};              // optional, [T, topK] fp32, bf16, fp16, fp64, contiguous
  TensorView permuted_probs{};     // with probs, [num_out] of their dtype: the prob of each row's
                                   // slot, 0 where a row has none
  TensorView scales{};             // optional, [T, s] fp32, rows contiguous: scales of the blocks
                                   // of float8 rows, which go where their token goes
  TensorView permuted_scales{};    // with scales, [num_out, s]
  int64_t align_size = 1;          // above 1: needs num_experts, tokens_per_expert and offsets
  int64_t capacity = kNoCapacity;  // slots that an expert keeps at most; needs the same
  DropPolicy drop_policy = DropPolicy::kPosition;  // kProbs needs probs
  // row_id_map, tokens_per_expert and offsets are there already, made by route or by an
  // earlier permute of as many slots: nothing is sorted, and of indices the shape alone
  // counts. Entries outside the rows are dropped. Not with a capacity or slot_of_row.
  bool map_is_given = false;
};

// No routing of this problem's slots fills more rows than this, pads included.
// Looks at the shape of indices, num_experts, align_size and capacity.
int64_t max_permuted_rows(const PermuteProblem& problem);

struct PermutePlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;
  // CUDA: how the row map is sorted (src/cuda/permute/row_map_policy.h).
  int map_launches = 0;
  int num_map_blocks = 0;       // thread blocks of each launch
  int map_items = 0;            // slots of a thread at a time; 0: the sort for very many experts
  bool map_has_masks = false;   // ranks by masks in shared memory; else by matching lanes
  bool starts_early = false;    // while the stream's previous kernel may still run
  int64_t num_bins = 0;         // counting-sort bins; of unknown experts the last takes all larger
  int64_t slots_per_block = 0;  // consecutive slots that one thread block sorts
  int counted_ranges = 0;       // ranges of slots that route has counted; 0: none, it counts itself
  int ranges_per_block = 0;     // of those, in slots_per_block
  int vector_bytes = 0;         // CUDA: width of one row access

  bool operator==(const PermutePlan&) const = default;
};

// Throws Error for anything wrong with the problem.
PermutePlan plan_permute(const PermuteProblem& problem, const Target& target);
void run(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const PermutePlan& plan);

// The gradient of probs from that of permuted_probs: entry (t, k) is that of the
// slot's row; 0 where the map names no row in [0, num_out).
struct PermuteProbsBwdProblem {
  TensorView permuted_probs_grad{};  // [num_out] any floating dtype, contiguous
  TensorView row_id_map{};           // [topK, T] int32 or int64, contiguous
  TensorView probs_grad{};           // [T, topK] the same dtype, contiguous
};

struct PermuteProbsBwdPlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;

  bool operator==(const PermuteProbsBwdPlan&) const = default;
};

PermuteProbsBwdPlan plan_permute_probs_bwd(const PermuteProbsBwdProblem& problem,
                                           const Target& target);
void run(const PermuteProbsBwdPlan& plan, const PermuteProbsBwdProblem& problem,
         Workspace workspace, Stream stream = {});
std::string to_string(const PermuteProbsBwdPlan& plan);

}  // namespace gg
