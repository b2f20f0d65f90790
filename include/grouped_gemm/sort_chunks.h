// Rows in consecutive chunks, put into another order of chunks: what came in from
// several ranks, by rank and then expert, becomes by expert and then rank, or back.
#pragma once

#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"

namespace gg {

// The i-th chunk of the output is chunk sorted_index[i] of the input. A chunk that
// sorted_index does not name has no part in the output; of a name given twice the
// first counts. Rows of the output that are left over are zeros. On the device
// sizes below 0 count as 0, and chunks end at N.
struct SortChunksProblem {
  TensorView input{};           // [N, h] as permute's; rows contiguous
  TensorView split_sizes{};     // [C] int32 or int64: rows of each chunk of the input
  TensorView sorted_index{};    // [C] int32 or int64
  TensorView output{};          // [N, h] contiguous
  TensorView row_id_map{};      // [1, N] int32: where each row goes, or -1
  TensorView probs{};           // optional, [N] as permute's: travel with their rows
  TensorView permuted_probs{};  // with probs, [N] of their dtype
};

struct SortChunksPlan {
  Path path = Path::kAuto;
  int64_t workspace_bytes = 0;
  int vector_bytes = 0;  // CUDA: width of one row access

  bool operator==(const SortChunksPlan&) const = default;
};

// Throws Error for anything wrong with the problem; sizes and names on the host are
// checked too. (The gradient is an unpermute, and a permute_probs_bwd.)
SortChunksPlan plan_sort_chunks(const SortChunksProblem& problem, const Target& target);
void run(const SortChunksPlan& plan, const SortChunksProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const SortChunksPlan& plan);

}  // namespace gg
