// permute on CUDA: plan and launches. Kernels: row_map.cuh, permute_rows.cuh.
#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/common/dispatch.h"
#include "cuda/door.h"
#include "cuda/permute/permute_rows.cuh"
#include "cuda/permute/row_map.h"
#include "cuda/permute/row_map_policy.h"
#include "cuda/permute/support.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "permute";

template <auto* kKernel>
void launch_kernel(const PermuteRowsArgs& args, RowShape shape, cudaStream_t stream) {
  prefer_common_split<kKernel>(kOp);
  // A block at least, for rows of zeros where there are no tokens.
  const int64_t num_blocks = base::max(1, base::ceil_div(args.num_tokens, shape.rows_per_block()));
  launch(kOp, kKernel, {.num_blocks = num_blocks, .num_threads = kRowThreads, .dependent = true},
         stream, args, shape);
}

void launch_rows(const PermuteRowsArgs& args, int vector_bytes, cudaStream_t stream) {
  if (args.row_bytes == 0 || args.num_out == 0) return;
  const int64_t num_vectors = args.row_bytes / kVectorBytes;
  if (vector_bytes < kVectorBytes) {
    const RowShape shape = row_shape(max_windows(args.row_bytes));
    launch_kernel<&permute_unaligned_rows>(args, shape, stream);
  } else if (num_vectors <= 4 * kRowThreads) {
    launch_kernel<&permute_rows<1>>(args, row_shape(num_vectors), stream);
  } else {
    launch_kernel<&permute_rows<2>>(args, row_shape(num_vectors), stream);
  }
}

}  // namespace

void plan_permute(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits) {
  select_row_map(plan, problem, limits);
  plan.vector_bytes =
      std::min(common_vector_bytes(problem.input), common_vector_bytes(problem.output));
  plan.workspace_bytes = row_map_workspace_bytes(plan, problem);
}

void permute(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
             Stream stream) {
  const int* num_kept = launch_row_map(plan, problem, workspace, to_cuda(stream));
  const int64_t element_bytes = size_of(problem.input.dtype);
  const int64_t row_bytes = problem.input.size(1) * element_bytes;
  const int64_t input_pitch = problem.input.stride(0) * element_bytes;
  const int topk = static_cast<int>(problem.indices.size(1));
  const int64_t num_tokens = topk > 0 ? problem.indices.size(0) : 0;
  // Rows with gaps between them are not fetched ahead.
  const bool in_one_piece = input_pitch == row_bytes && plan.vector_bytes == kVectorBytes;
  launch_rows({.input = static_cast<const char*>(problem.input.data),
               .output = static_cast<char*>(problem.output.data),
               .row_id_map = {problem.row_id_map.data, /*is_int64=*/false},
               .num_kept = num_kept,
               .input_extent = extent_of(problem.input),
               .input_pitch = input_pitch,
               .row_bytes = row_bytes,
               .num_tokens = num_tokens,
               .topk = topk,
               .num_out = problem.output.size(0),
               .burst = Burst(in_one_piece ? row_bytes : 0, num_tokens)},
              plan.vector_bytes, to_cuda(stream));
}

}  // namespace gg::cuda
