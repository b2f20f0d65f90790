// unpermute on CUDA: plan and launches. Kernels: unpermute_rows.cuh,
// unpermute_unaligned.cuh. Its backward is in unpermute_bwd.cu.
#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/common/dispatch.h"
#include "cuda/door.h"
#include "cuda/permute/support.h"
#include "cuda/permute/unpermute_rows.cuh"
#include "cuda/permute/unpermute_unaligned.cuh"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "unpermute";

// Loads in flight land in L1, so these kernels keep the default split of it.
LaunchShape launch_shape(const UnpermuteArgs& args, RowShape shape, int64_t shared_bytes = 0) {
  return {.num_blocks = base::ceil_div(args.num_tokens, shape.rows_per_block()),
          .num_threads = kRowThreads,
          .shared_bytes = shared_bytes,
          .dependent = true};
}

template <typename... Parameters>
void launch_kernel(void (*kernel)(Parameters...), const UnpermuteArgs& args, RowShape shape,
                   cudaStream_t stream) {
  launch(kOp, kernel, launch_shape(args, shape), stream, args, shape);
}

// kAtOnce windows are in flight together in a thread. More tokens of a block than have room
// for their slots in kMaxSlotRows take them in turns.
template <typename T, int kAtOnce>
void launch_unaligned(const UnpermuteArgs& args, cudaStream_t stream) {
  constexpr int64_t kMaxSlotRows = 1024;  // 16 KB
  const RowShape rows = even_row_shape(base::max(1, most_whole(args.row_bytes)), 2);
  const int64_t num_slots = args.topk + (args.residual != nullptr ? 1 : 0);
  const int64_t room = base::max(kAtOnce, kMaxSlotRows / rows.rows_per_block());
  const int64_t slots = base::round_up(base::min(num_slots, room), kAtOnce);
  const int64_t shared_bytes = rows.rows_per_block() * slots * int64_t{sizeof(SlotRow)};
  launch(kOp, unpermute_unaligned_rows<T, kAtOnce>, launch_shape(args, rows, shared_bytes), stream,
         args, UnpermuteShape{rows, static_cast<int>(slots)});
}

// Vectors of a row that a thread takes one after the other. H200, 2026-11-23, of copy with 2 and
// with 1: 65536x8x2048 1.03 and 0.97, 16384x8x2048 1.01 and 0.965, 32768x8x4096 1.04 and 1.04;
// few tokens keep more threads busy with 1. A thread of two slots with four vectors of each in
// flight was slower: 16384x2x4096 0.954 and 0.980.
int64_t vectors_of_thread(const UnpermuteArgs& args) {
  constexpr int64_t kManyTokens = 1024;
  return args.topk > 4 && args.num_tokens >= kManyTokens ? 2 : 1;
}

template <typename T>
void launch_rows(const UnpermuteArgs& args, int vector_bytes, cudaStream_t stream) {
  if (vector_bytes < kVectorBytes) {
    return args.topk <= 2 ? launch_unaligned<T, 2>(args, stream)
                          : launch_unaligned<T, 4>(args, stream);
  }
  const int64_t num_vectors = args.row_bytes / kVectorBytes;
  const RowShape shape = row_shape(base::ceil_div(num_vectors, vectors_of_thread(args)));
  if (args.topk <= 2) {
    launch_kernel(unpermute_rows<T, 2>, args, shape, stream);
  } else if (args.topk <= 4) {
    launch_kernel(unpermute_rows<T, 4>, args, shape, stream);
  } else {
    launch_kernel(unpermute_rows<T, 8>, args, shape, stream);
  }
}

}  // namespace

void plan_unpermute(UnpermutePlan& plan, const UnpermuteProblem& problem) {
  require_supported(kOp, problem.input.dtype);
  require_supported_probs(kOp, problem.probs);
  plan.vector_bytes =
      std::min(common_vector_bytes(problem.input), common_vector_bytes(problem.output));
  if (problem.residual.defined()) {
    plan.vector_bytes = std::min(plan.vector_bytes, common_vector_bytes(problem.residual));
  }
}

void unpermute(const UnpermutePlan& plan, const UnpermuteProblem& problem, Stream stream) {
  if (problem.output.num_elements() == 0) return;
  const TensorView& map = problem.row_id_map;
  const int64_t element_bytes = size_of(problem.input.dtype);
  const UnpermuteArgs args{.input = static_cast<const char*>(problem.input.data),
                           .output = static_cast<char*>(problem.output.data),
                           .residual = static_cast<const char*>(problem.residual.data),
                           .probs = {problem.probs.data, problem.probs.dtype},
                           .map = {map.data, map.dtype == DType::kInt64},
                           .inner_rows = inner_rows(problem.input),
                           .inner_residual_rows = problem.residual.defined()
                                                      ? inner_rows(problem.residual)
                                                      : InnerRows{},
                           .num_rows = problem.input.size(0),
                           .num_tokens = map.size(1),
                           .topk = static_cast<int>(map.size(0)),
                           .input_pitch = problem.input.stride(0) * element_bytes,
                           .residual_pitch = problem.residual.stride(0) * element_bytes,
                           .row_bytes = problem.output.size(1) * element_bytes};
  with_number_type(kOp, problem.input.dtype, [&](auto tag) {
    launch_rows<typename decltype(tag)::type>(args, plan.vector_bytes, to_cuda(stream));
  });
}

}  // namespace gg::cuda
