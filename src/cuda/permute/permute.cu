// permute on CUDA: plan and launches. Kernels: row_map.cuh, permute_rows.cuh,
// pad_rows.cuh, move_probs.cuh.
#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/common/dispatch.h"
#include "cuda/door.h"
#include "cuda/permute/pad_rows.cuh"
#include "cuda/permute/permute_probs.h"
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

int rows_vector_bytes(const TensorView& input, const TensorView& output) {
  return std::min(common_vector_bytes(input), common_vector_bytes(output));
}

// Each token's row of `input` to its slots' rows of `output`, zeros to the others.
void move_rows(const PermuteProblem& problem, const TensorView& input, const TensorView& output,
               int vector_bytes, const int* num_kept, cudaStream_t stream) {
  const int64_t element_bytes = size_of(input.dtype);
  const int64_t row_bytes = input.size(1) * element_bytes;
  const int64_t input_pitch = input.stride(0) * element_bytes;
  const int topk = static_cast<int>(problem.indices.size(1));
  const int64_t num_tokens = topk > 0 ? problem.indices.size(0) : 0;
  // Rows with gaps between them are not fetched ahead.
  const bool in_one_piece = input_pitch == row_bytes && vector_bytes == kVectorBytes;
  launch_rows({.input = static_cast<const char*>(input.data),
               .output = static_cast<char*>(output.data),
               .row_id_map = {problem.row_id_map.data, /*is_int64=*/false},
               .num_kept = num_kept,
               .input_extent = extent_of(input),
               .input_pitch = input_pitch,
               .row_bytes = row_bytes,
               .num_tokens = num_tokens,
               .topk = topk,
               .num_out = output.size(0),
               .burst = Burst(in_one_piece ? row_bytes : 0, num_tokens)},
              vector_bytes, stream);
  const int64_t num_blocks = problem.num_experts * kPadBlocksPerGroup;
  if (problem.align_size == 1 || output.num_elements() == 0) return;
  launch(kOp, &clear_pad_rows,
         {.num_blocks = num_blocks, .num_threads = kRowThreads, .dependent = true}, stream,
         PadRowsArgs{.rows = static_cast<char*>(output.data),
                     .tokens_per_expert = static_cast<const int*>(problem.tokens_per_expert.data),
                     .offsets = static_cast<const int*>(problem.offsets.data),
                     .num_out = output.size(0),
                     .row_bytes = row_bytes});
}

// Probs are moved by the map's inverse: in scratch where the caller has no use for it.
int64_t inverse_bytes(const PermuteProblem& problem) {
  const bool needed = problem.probs.defined() && !problem.slot_of_row.defined();
  return needed ? base::round_up(problem.output.size(0) * int64_t{sizeof(int)}, 16) : 0;
}

}  // namespace

void plan_permute(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits) {
  require_supported_probs(kOp, problem.probs);
  select_row_map(plan, problem, limits);
  plan.vector_bytes = rows_vector_bytes(problem.input, problem.output);
  plan.workspace_bytes = inverse_bytes(problem) + row_map_workspace_bytes(plan, problem);
}

void permute(const PermutePlan& plan, const PermuteProblem& given, Workspace workspace,
             Stream stream) {
  PermuteProblem problem = given;
  const int64_t used = inverse_bytes(problem);
  if (used > 0) problem.slot_of_row = view(workspace.data, DType::kInt32, {problem.output.size(0)});
  const Workspace rest{static_cast<char*>(workspace.data) + used, workspace.bytes - used};
  const int* num_kept = launch_row_map(plan, problem, rest, to_cuda(stream));
  move_rows(problem, problem.input, problem.output, plan.vector_bytes, num_kept, to_cuda(stream));
  if (problem.scales.defined()) {
    move_rows(problem, problem.scales, problem.permuted_scales,
              rows_vector_bytes(problem.scales, problem.permuted_scales), num_kept,
              to_cuda(stream));
  }
  if (problem.probs.defined()) {
    move_probs(kOp, problem.probs, problem.slot_of_row, problem.permuted_probs,
               /*dependent=*/true, to_cuda(stream));
  }
}

}  // namespace gg::cuda
