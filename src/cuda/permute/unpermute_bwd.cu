// unpermute's backward on CUDA: plan and launches. Kernels:
// unpermute_rows_bwd.cuh, unpermute_unaligned_bwd.cuh, empty_rows.cuh.
#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/common/dispatch.h"
#include "cuda/door.h"
#include "cuda/permute/permute_rows.h"
#include "cuda/permute/support.h"
#include "cuda/permute/unpermute_rows_bwd.cuh"
#include "cuda/permute/unpermute_unaligned_bwd.cuh"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "unpermute_bwd";
constexpr int64_t kWarp = 32;

template <typename... Parameters>
void launch_kernel(void (*kernel)(Parameters...), UnpermuteBwdArgs args, RowShape shape,
                   cudaStream_t stream, int64_t shared_bytes = 0) {
  const int64_t num_token_blocks =
      args.topk > 0 ? base::ceil_div(args.num_tokens, shape.rows_per_block()) : 0;
  if (args.input_grad != nullptr) {
    args.num_clear_blocks = num_clear_blocks(args.empty_rows);
  }
  // In the middle: marks are there by then, and tokens hide the end.
  args.first_clear_block = num_token_blocks / 2;
  const int64_t num_blocks = num_token_blocks + args.num_clear_blocks;
  if (num_blocks == 0) return;
  launch(kOp, kernel,
         {.num_blocks = num_blocks,
          .num_threads = kRowThreads,
          .shared_bytes = shared_bytes,
          .dependent = args.num_clear_blocks > 0 && args.empty_rows.entry_of_row != nullptr},
         stream, args, shape);
}

template <typename T, int kAtOnce>
void launch_unaligned(const UnpermuteBwdArgs& args, cudaStream_t stream) {
  const bool dots = args.probs_grad != nullptr;
  const int64_t num_windows = base::max(1, most_whole(args.row_bytes));
  RowShape shape = dots ? even_row_shape(num_windows, 1, kWarp) : even_row_shape(num_windows, 2);
  shape.width = std::max(shape.width, 4);  // else slots take too much shared memory
  const int64_t apart =
      reinterpret_cast<intptr_t>(args.input) - reinterpret_cast<intptr_t>(args.input_grad);
  const bool shifts = dots && args.input_grad != nullptr &&
                      (apart | (args.input_pitch - args.row_bytes)) % kVectorBytes != 0;
  const auto kernel = !dots    ? unpermute_unaligned_rows_bwd<T, kAtOnce, false, false>
                      : shifts ? unpermute_unaligned_rows_bwd<T, kAtOnce, true, true>
                               : unpermute_unaligned_rows_bwd<T, kAtOnce, true, false>;
  launch_kernel(kernel, args, shape, stream, SharedBwd::bytes(shape.rows_per_block()));
}

// Rows have 8 threads at least, so that no thread loads two slots, and whole warps where products
// are added up.
RowShape aligned_shape(int64_t num_vectors, bool dots) {
  return dots || num_vectors > kWarp ? even_row_shape(num_vectors, 1, kWarp)
                                     : row_shape(num_vectors, 8);
}

template <typename T, int kBatch, bool kDots>
void launch_aligned(const UnpermuteBwdArgs& args, cudaStream_t stream) {
  constexpr auto* kKernel = &unpermute_rows_bwd<T, kBatch, kDots>;
  prefer_common_split<kKernel>(kOp);  // rows on their way lie in shared memory
  launch_kernel(kKernel, args, aligned_shape(args.row_bytes / kVectorBytes, kDots), stream);
}

template <typename T, bool kDots>
void launch_batches(const UnpermuteBwdArgs& args, cudaStream_t stream) {
  if (args.topk <= 2) return launch_aligned<T, 2, kDots>(args, stream);
  if (args.topk <= 4) return launch_aligned<T, 4, kDots>(args, stream);
  launch_aligned<T, 8, kDots>(args, stream);
}

template <typename T>
void launch_rows(const UnpermuteBwdArgs& args, int vector_bytes, cudaStream_t stream) {
  if (vector_bytes < kVectorBytes) {
    return args.topk <= 2 ? launch_unaligned<T, 2>(args, stream)
                          : launch_unaligned<T, kSharedSlots>(args, stream);
  }
  if (args.probs_grad == nullptr) return launch_batches<T, false>(args, stream);
  launch_batches<T, true>(args, stream);
}

void launch_marks(const EmptyRowsArgs& args, cudaStream_t stream) {
  // A block at least: the next launch depends on this one.
  const int64_t num_blocks = base::max(1, base::ceil_div(args.num_entries, kMarkEntriesPerBlock));
  launch(kOp, mark_rows, {.num_blocks = num_blocks, .num_threads = kRowThreads, .dependent = true},
         stream, args);
}

// Without probs each row is copied to its slots: that is permute, whose kernels write faster.
// H200, 2026-11-29, of copy, steady, by unpermute's and by permute's: 65536x8x2048 0.87 and 0.92,
// 8192x8x7168 0.86 and 0.92, 16384x2x4096 0.91 and 0.95. Two more launches cost more than that
// where there is little to copy.
bool is_permute(const UnpermuteBwdProblem& problem) {
  constexpr int64_t kLeastCopiedBytes = 32 << 20;
  return !problem.probs.defined() && !problem.probs_grad.defined() &&
         problem.row_id_map.dtype == DType::kInt32 && problem.input_grad.defined() &&
         problem.input_grad.num_elements() * size_of(problem.input_grad.dtype) >= kLeastCopiedBytes;
}

// After launch_marks; each kernel may start while the one before it ends.
void launch_permute(const UnpermuteBwdProblem& problem, int vector_bytes,
                    const EmptyRowsArgs& empty_rows, cudaStream_t stream) {
  launch_permute_rows(kOp, problem.row_id_map, problem.output_grad, problem.input_grad,
                      vector_bytes, nullptr, stream);
  launch(
      kOp, clear_rows,
      {.num_blocks = num_clear_blocks(empty_rows), .num_threads = kRowThreads, .dependent = true},
      stream, empty_rows);
}

// Marks: empty_rows.cuh.
bool needs_marks(const UnpermuteBwdProblem& problem) {
  return problem.input_grad.defined() &&
         (is_long_map(problem.row_id_map.num_elements()) || is_permute(problem));
}

UnpermuteBwdArgs arguments(const UnpermuteBwdProblem& problem, Workspace workspace) {
  const TensorView& grad = problem.output_grad;
  const TensorView& map = problem.row_id_map;
  const bool has_grad = problem.input_grad.defined();
  const bool dots = problem.probs_grad.defined();
  const int64_t num_rows = has_grad ? problem.input_grad.size(0) : problem.input.size(0);
  const int64_t element_bytes = size_of(grad.dtype);
  const int64_t row_bytes = grad.size(1) * element_bytes;
  const IntegerPointer entries{map.data, map.dtype == DType::kInt64};
  char* const input_grad = has_grad ? static_cast<char*>(problem.input_grad.data) : nullptr;
  return {.output_grad = static_cast<const char*>(grad.data),
          .input = static_cast<const char*>(problem.input.data),
          .input_grad = input_grad,
          .probs_grad = dots ? static_cast<float*>(problem.probs_grad.data) : nullptr,
          .probs = {problem.probs.data, problem.probs.dtype},
          .map = entries,
          .inner_grad_rows = inner_rows(grad),
          .inner_input_rows = dots ? inner_rows(problem.input) : InnerRows{},
          .empty_rows = {.rows = input_grad,
                         .map = entries,
                         .entry_of_row =
                             needs_marks(problem) ? static_cast<int*>(workspace.data) : nullptr,
                         .num_entries = map.num_elements(),
                         .num_rows = num_rows,
                         .row_bytes = row_bytes},
          .num_rows = num_rows,
          .num_tokens = map.size(1),
          .topk = static_cast<int>(map.size(0)),
          .grad_pitch = grad.stride(0) * element_bytes,
          .input_pitch = problem.input.stride(0) * element_bytes,
          .row_bytes = row_bytes,
          .first_clear_block = 0,
          .num_clear_blocks = 0};
}

}  // namespace

void plan_unpermute_bwd(UnpermutePlan& plan, const UnpermuteBwdProblem& problem) {
  require_supported(kOp, problem.output_grad.dtype);
  require_supported_probs(kOp, problem.probs);
  plan.vector_bytes = common_vector_bytes(problem.output_grad);
  for (const TensorView& tensor : {problem.input, problem.input_grad}) {
    if (tensor.defined()) {
      plan.vector_bytes = std::min(plan.vector_bytes, common_vector_bytes(tensor));
    }
  }
  if (needs_marks(problem)) {
    plan.workspace_bytes = problem.input_grad.size(0) * int64_t{sizeof(int)};
  }
}

void unpermute_bwd(const UnpermutePlan& plan, const UnpermuteBwdProblem& problem,
                   Workspace workspace, Stream stream) {
  UnpermuteBwdArgs args = arguments(problem, workspace);
  if (args.row_bytes == 0 || args.num_rows == 0) args.input_grad = nullptr;  // nothing to write
  if (args.input_grad == nullptr && args.probs_grad == nullptr) return;
  if (args.input_grad != nullptr && args.empty_rows.entry_of_row != nullptr) {
    launch_marks(args.empty_rows, to_cuda(stream));
  }
  if (args.input_grad != nullptr && is_permute(problem)) {
    return launch_permute(problem, plan.vector_bytes, args.empty_rows, to_cuda(stream));
  }
  with_number_type(kOp, problem.output_grad.dtype, [&](auto tag) {
    launch_rows<typename decltype(tag)::type>(args, plan.vector_bytes, to_cuda(stream));
  });
}

}  // namespace gg::cuda
