// Probs that travel with the rows: launches. Kernel: move_probs.cuh.
#include "cuda/permute/permute_probs.h"

#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/door.h"
#include "cuda/permute/move_probs.cuh"

namespace gg::cuda {

void move_probs(const char* op, const TensorView& input, const TensorView& map,
                const TensorView& output, cudaStream_t stream) {
  const int64_t num_outputs = output.num_elements();
  if (num_outputs == 0) return;
  const int64_t topk = map.rank == 2 ? map.size(0) : 1;
  const MoveProbsArgs args{.input = input.data,
                           .output = output.data,
                           .map = {map.data, map.dtype == DType::kInt64},
                           .topk = FastDiv(static_cast<uint32_t>(topk)),
                           .num_tokens = num_outputs / topk,
                           .num_inputs = input.num_elements(),
                           .num_outputs = static_cast<uint32_t>(num_outputs)};
  const LaunchShape shape{.num_blocks = base::ceil_div(num_outputs, kRowThreads),
                          .num_threads = kRowThreads,
                          .dependent = true};
  switch (size_of(output.dtype)) {
    case 2: return launch(op, &move_probs<uint16_t>, shape, stream, args);
    case 4: return launch(op, &move_probs<uint32_t>, shape, stream, args);
    default: return launch(op, &move_probs<uint64_t>, shape, stream, args);
  }
}

void scatter_probs(const char* op, const TensorView& input, const TensorView& map,
                   const TensorView& output, cudaStream_t stream) {
  const int64_t bytes = size_of(output.dtype);
  if (output.num_elements() == 0) return;
  check(
      op, "clear permuted_probs",
      cudaMemsetAsync(output.data, 0, static_cast<size_t>(output.num_elements() * bytes), stream));
  const int64_t num_slots = input.num_elements();
  if (num_slots == 0) return;
  const ScatterProbsArgs args{.input = input.data,
                              .output = output.data,
                              .map = static_cast<const int*>(map.data),
                              .topk = FastDiv(static_cast<uint32_t>(map.size(0))),
                              .num_tokens = map.size(1),
                              .num_slots = static_cast<uint32_t>(num_slots),
                              .num_outputs = output.num_elements()};
  const LaunchShape shape{.num_blocks = base::ceil_div(num_slots, kRowThreads),
                          .num_threads = kRowThreads};
  switch (bytes) {
    case 2: return launch(op, &scatter_probs_kernel<uint16_t>, shape, stream, args);
    case 4: return launch(op, &scatter_probs_kernel<uint32_t>, shape, stream, args);
    default: return launch(op, &scatter_probs_kernel<uint64_t>, shape, stream, args);
  }
}

void permute_probs_bwd(const PermuteProbsBwdProblem& problem, Stream stream) {
  move_probs("permute_probs_bwd", problem.permuted_probs_grad, problem.row_id_map,
             problem.probs_grad, to_cuda(stream));
}

}  // namespace gg::cuda
