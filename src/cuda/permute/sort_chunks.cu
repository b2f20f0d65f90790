// sort_chunks on CUDA: plan and launches. Kernels: chunk_map.cuh; rows and probs
// move as permute's.
#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/door.h"
#include "cuda/permute/chunk_map.cuh"
#include "cuda/permute/permute_probs.h"
#include "cuda/permute/permute_rows.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "sort_chunks";

ChunkMapArgs arguments(const SortChunksProblem& problem, void* scratch) {
  const TensorView& sizes = problem.split_sizes;
  const TensorView& names = problem.sorted_index;
  const int64_t num_chunks = sizes.size(0);
  int* const ints = static_cast<int*>(scratch);
  return {.split_sizes = {sizes.data, sizes.dtype == DType::kInt64},
          .sorted_index = {names.data, names.dtype == DType::kInt64},
          .num_chunks = static_cast<int>(num_chunks),
          .num_rows = static_cast<int>(problem.input.size(0)),
          .starts = ints + 1,
          .target_starts = ints + 1 + num_chunks,
          .first_names = ints + 1 + 2 * num_chunks,
          .num_filled = ints,
          .row_id_map = static_cast<int*>(problem.row_id_map.data),
          .row_sources = ints + 1 + 3 * num_chunks};
}

}  // namespace

void plan_sort_chunks(SortChunksPlan& plan, const SortChunksProblem& problem) {
  plan.vector_bytes = rows_vector_bytes(problem.input, problem.output);
  plan.workspace_bytes =
      (1 + 3 * problem.split_sizes.size(0) + problem.input.size(0)) * int64_t{sizeof(int)};
}

void sort_chunks(const SortChunksPlan& plan, const SortChunksProblem& problem, Workspace workspace,
                 Stream stream) {
  const int64_t num_rows = problem.input.size(0);
  if (num_rows == 0) return;
  const ChunkMapArgs args = arguments(problem, workspace.data);
  launch(kOp, &find_chunks, {.num_blocks = 1, .num_threads = kChunkThreads, .dependent = true},
         to_cuda(stream), args);
  launch(kOp, &map_chunk_rows,
         {.num_blocks = base::ceil_div(num_rows, kRowThreads),
          .num_threads = kRowThreads,
          .dependent = true},
         to_cuda(stream), args);
  launch_permute_rows(kOp, problem.row_id_map, problem.input, problem.output, plan.vector_bytes,
                      args.num_filled, to_cuda(stream));
  if (!problem.probs.defined()) return;
  move_probs(kOp, problem.probs, view(args.row_sources, DType::kInt32, {num_rows}),
             problem.permuted_probs, to_cuda(stream));
}

}  // namespace gg::cuda
