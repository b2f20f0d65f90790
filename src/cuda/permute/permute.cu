// permute on CUDA: plan and launches. Kernels: row_map.cuh, permute_rows.cuh,
// pad_rows.cuh, move_probs.cuh.
#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/door.h"
#include "cuda/permute/pad_rows.cuh"
#include "cuda/permute/permute_probs.h"
#include "cuda/permute/permute_rows.h"
#include "cuda/permute/row_map.h"
#include "cuda/permute/row_map_policy.h"
#include "cuda/permute/support.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "permute";

// Each token's row of `input` to its slots' rows of `output`, zeros to the others.
void move_rows(const PermuteProblem& problem, const TensorView& input, const TensorView& output,
               int vector_bytes, const int* num_kept, AfterPrevious after, cudaStream_t stream) {
  launch_permute_rows(kOp, problem.row_id_map, input, output, vector_bytes, num_kept, stream,
                      after);
  if (problem.align_size == 1 || output.num_elements() == 0) return;
  launch(kOp, &clear_pad_rows,
         {.num_blocks = problem.num_experts * kPadBlocksPerGroup,
          .num_threads = kRowThreads,
          .dependent = true},
         stream,
         PadRowsArgs{.rows = static_cast<char*>(output.data),
                     .tokens_per_expert = static_cast<const int*>(problem.tokens_per_expert.data),
                     .offsets = static_cast<const int*>(problem.offsets.data),
                     .num_out = output.size(0),
                     .row_bytes = output.size(1) * size_of(output.dtype)});
}

// Probs are moved by the map's inverse: in scratch where the caller has no use for it.
int64_t inverse_bytes(const PermuteProblem& problem) {
  const bool needed =
      problem.probs.defined() && !problem.slot_of_row.defined() && !problem.map_is_given;
  return needed ? base::round_up(problem.output.size(0) * int64_t{sizeof(int)}, 16) : 0;
}

}  // namespace

void plan_permute(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits) {
  require_supported_probs(kOp, problem.probs);
  select_row_map(plan, problem, limits);
  plan.vector_bytes = rows_vector_bytes(problem.input, problem.output);
  if (problem.map_is_given) return;
  plan.workspace_bytes = inverse_bytes(problem) + row_map_workspace_bytes(plan, problem);
}

void permute(const PermutePlan& plan, const PermuteProblem& given, Workspace workspace,
             Stream stream) {
  PermuteProblem problem = given;
  const int* num_kept = nullptr;
  AfterPrevious after;
  if (given.map_is_given) {
    num_kept = static_cast<const int*>(given.offsets.data) + given.num_experts - 1;
    after = {.waits_first = true, .dependent = plan.starts_early};
  } else {
    const int64_t used = inverse_bytes(problem);
    if (used > 0) {
      problem.slot_of_row = view(workspace.data, DType::kInt32, {problem.output.size(0)});
    }
    const Workspace rest{static_cast<char*>(workspace.data) + used, workspace.bytes - used};
    num_kept = launch_row_map(plan, problem, rest, to_cuda(stream));
  }
  move_rows(problem, problem.input, problem.output, plan.vector_bytes, num_kept, after,
            to_cuda(stream));
  if (problem.scales.defined()) {
    move_rows(problem, problem.scales, problem.permuted_scales,
              rows_vector_bytes(problem.scales, problem.permuted_scales), num_kept, after,
              to_cuda(stream));
  }
  if (!problem.probs.defined()) return;
  if (given.map_is_given) {
    scatter_probs(kOp, problem.probs, problem.row_id_map, problem.permuted_probs, to_cuda(stream));
  } else {
    move_probs(kOp, problem.probs, problem.slot_of_row, problem.permuted_probs, to_cuda(stream));
  }
}

}  // namespace gg::cuda
