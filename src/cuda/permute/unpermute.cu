// unpermute and its backward on CUDA: plans and launches. Kernels: unpermute.cuh.
#include "cuda/permute/unpermute.cuh"

#include <algorithm>

#include "base/math.h"
#include "cuda/common/dispatch.h"
#include "cuda/common/launch.h"
#include "cuda/door.h"

namespace gg::cuda {
namespace {

constexpr int64_t kMaxClearBlocks = 1024;

RowMapView map_view(const TensorView& map, int64_t num_rows) {
  return {{map.data, map.dtype == DType::kInt64},
          static_cast<int>(map.size(1)),
          static_cast<int>(map.size(0)),
          num_rows};
}

// function(Tag<T>{}, count): 16 bytes of T at once, or 4, or one element.
template <typename Function>
void with_vector(const char* op, DType dtype, int vector_bytes, const Function& function) {
  with_number_type(op, dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (vector_bytes == 16) {
      function(tag, std::integral_constant<int, 16 / sizeof(T)>{});
    } else if (vector_bytes >= 4 && sizeof(T) < 4) {
      function(tag, std::integral_constant<int, std::max<int>(1, 4 / sizeof(T))>{});
    } else {
      function(tag, std::integral_constant<int, 1>{});
    }
  });
}

void require_supported(const char* op, DType dtype) {
  with_number_type(op, dtype, [](auto) {});
}

void require_supported_probs(const char* op, const TensorView& probs) {
  GG_REQUIRE(!probs.defined() || probs.dtype != DType::kFloat64, op,
             ": probs got dtype float64; needs float32, bfloat16 or float16 on a CUDA device; "
             "cast it");
}

void launch_clear(char* grad, const uint8_t* is_written, int64_t num_rows, int64_t row_bytes,
                  int vector_bytes, cudaStream_t stream) {
  const int bytes = vector_bytes == 16 ? 16 : 1;
  const RowShape shape = row_shape(row_bytes / bytes);
  const int num_blocks =
      static_cast<int>(std::min(kMaxClearBlocks, base::ceil_div(num_rows, shape.rows_per_block())));
  if (bytes == 16) {
    clear_unwritten_rows<16>
        <<<num_blocks, kRowThreads, 0, stream>>>(grad, is_written, num_rows, row_bytes, shape);
  } else {
    clear_unwritten_rows<1>
        <<<num_blocks, kRowThreads, 0, stream>>>(grad, is_written, num_rows, row_bytes, shape);
  }
  check_launch("unpermute_bwd");
}

}  // namespace

void plan_unpermute(UnpermutePlan& plan, const UnpermuteProblem& problem) {
  require_supported("unpermute", problem.input.dtype);
  require_supported_probs("unpermute", problem.probs);
  plan.vector_bytes =
      std::min(common_vector_bytes(problem.input), common_vector_bytes(problem.output));
}

void plan_unpermute_bwd(UnpermutePlan& plan, const UnpermuteBwdProblem& problem) {
  require_supported("unpermute_bwd", problem.output_grad.dtype);
  require_supported_probs("unpermute_bwd", problem.probs);
  plan.vector_bytes = common_vector_bytes(problem.output_grad);
  for (const TensorView& tensor : {problem.input, problem.input_grad}) {
    if (tensor.defined()) {
      plan.vector_bytes = std::min(plan.vector_bytes, common_vector_bytes(tensor));
    }
  }
  plan.workspace_bytes = problem.input_grad.defined() ? problem.input_grad.size(0) : 0;
}

void unpermute(const UnpermutePlan& plan, const UnpermuteProblem& problem, Stream stream) {
  const UnpermuteArgs args{.input = problem.input.data,
                           .output = problem.output.data,
                           .probs = {problem.probs.data, problem.probs.dtype},
                           .map = map_view(problem.row_id_map, problem.input.size(0)),
                           .input_pitch = problem.input.stride(0),
                           .hidden = problem.output.size(1)};
  if (problem.output.num_elements() == 0) return;
  with_vector("unpermute", problem.input.dtype, plan.vector_bytes, [&](auto tag, auto count) {
    using T = typename decltype(tag)::type;
    const RowShape shape = row_shape(args.hidden / count);
    const int64_t num_blocks = base::ceil_div(args.map.num_tokens, shape.rows_per_block());
    unpermute_rows<T, decltype(count)::value>
        <<<static_cast<unsigned>(num_blocks), kRowThreads, 0, to_cuda(stream)>>>(args, shape);
  });
  check_launch("unpermute");
}

void unpermute_bwd(const UnpermutePlan& plan, const UnpermuteBwdProblem& problem,
                   Workspace workspace, Stream stream) {
  const bool has_grad = problem.input_grad.defined();
  const int64_t num_rows = has_grad ? problem.input_grad.size(0) : problem.input.size(0);
  uint8_t* is_written = static_cast<uint8_t*>(workspace.data);
  const UnpermuteBwdArgs args{.output_grad = problem.output_grad.data,
                              .input = problem.input.data,
                              .input_grad = has_grad ? problem.input_grad.data : nullptr,
                              .probs_grad = static_cast<float*>(problem.probs_grad.data),
                              .probs = {problem.probs.data, problem.probs.dtype},
                              .map = map_view(problem.row_id_map, num_rows),
                              .is_written = is_written,
                              .grad_pitch = problem.output_grad.stride(0),
                              .input_pitch = problem.input.stride(0),
                              .hidden = problem.output_grad.size(1)};
  if (has_grad && num_rows > 0) {
    check("unpermute_bwd", "clear scratch memory",
          cudaMemsetAsync(is_written, 0, static_cast<size_t>(num_rows), to_cuda(stream)));
  }
  if (args.map.num_tokens > 0 && args.map.topk > 0) {
    const int64_t num_blocks = base::ceil_div(args.map.num_tokens, kRowThreads / 32);
    with_vector(
        "unpermute_bwd", problem.output_grad.dtype, plan.vector_bytes, [&](auto tag, auto count) {
          using T = typename decltype(tag)::type;
          unpermute_rows_bwd<T, decltype(count)::value>
              <<<static_cast<unsigned>(num_blocks), kRowThreads, 0, to_cuda(stream)>>>(args);
        });
    check_launch("unpermute_bwd");
  }
  const int64_t row_bytes = args.hidden * size_of(problem.output_grad.dtype);
  if (has_grad && num_rows > 0 && row_bytes > 0) {
    launch_clear(static_cast<char*>(problem.input_grad.data), is_written, num_rows, row_bytes,
                 plan.vector_bytes, to_cuda(stream));
  }
}

}  // namespace gg::cuda
