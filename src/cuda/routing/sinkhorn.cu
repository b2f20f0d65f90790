// sinkhorn on CUDA: plan and launch. Kernels: sinkhorn_rows.cuh up to 1024
// columns, sinkhorn_wide.cuh beyond.
#include "base/math.h"
#include "cuda/common/launch.h"
#include "cuda/door.h"
#include "cuda/routing/row_shapes.h"
#include "cuda/routing/sinkhorn_rows.cuh"
#include "cuda/routing/sinkhorn_wide.cuh"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "sinkhorn";
constexpr int64_t kMaxRowColumns = 1024;
// Rows that are worth the exchange of a chunk's column sums.
constexpr int64_t kRowsPerChunk = 64;
// A chunk for (almost) each multiprocessor of an H100, since each iteration ends
// with every block reading every chunk's sums; the same number on every GPU.
constexpr int64_t kMaxChunks = 128;
constexpr int64_t kMaxWideChunks = 256;
// Two blocks of 256 threads fit on every multiprocessor since 7.0, so the whole
// cooperative grid runs at once.
constexpr int64_t kWideBlocksPerSm = 2;

int64_t shared_bytes(const SinkhornPlan& plan, int64_t num_rows, int64_t num_columns) {
  const int64_t rows = plan.keeps_rows ? base::ceil_div(num_rows, plan.num_chunks) : 0;
  return sinkhorn_rows_floats(num_columns, sinkhorn_rows_threads(plan.values_per_lane) / 32, rows) *
         4;
}

void plan_rows(SinkhornPlan& plan, int64_t num_rows, int64_t num_columns,
               const DeviceLimits& limits) {
  with_row_shape(num_columns, [&](auto shape) { plan.values_per_lane = decltype(shape)::kValues; });
  plan.num_chunks =
      static_cast<int>(base::clamp(base::ceil_div(num_rows, kRowsPerChunk), 1, kMaxChunks));
  plan.num_blocks = static_cast<int>(base::min(plan.num_chunks, base::max(1, limits.num_sms)));
  plan.keeps_rows = plan.num_blocks == plan.num_chunks;
  if (shared_bytes(plan, num_rows, num_columns) > limits.shared_bytes_per_block) {
    plan.keeps_rows = false;
  }
  plan.workspace_bytes = (num_rows + 2 * plan.num_chunks * num_columns) * int64_t{sizeof(float)};
}

void plan_wide(SinkhornPlan& plan, int64_t num_rows, int64_t num_columns,
               const DeviceLimits& limits) {
  plan.num_chunks =
      static_cast<int>(base::clamp(base::ceil_div(num_rows, kRowsPerChunk), 1, kMaxWideChunks));
  plan.num_blocks = static_cast<int>(base::clamp(base::ceil_div(num_rows, kSinkhornWarps), 1,
                                                 kWideBlocksPerSm * base::max(1, limits.num_sms)));
  plan.workspace_bytes =
      (2 * num_rows + (2 + plan.num_chunks) * num_columns) * int64_t{sizeof(float)};
}

template <typename Kernel>
void launch(Kernel* kernel, SinkhornArgs& args, int num_blocks, int threads, int64_t bytes,
            const Stream& stream) {
  allow_shared_bytes(kOp, kernel, bytes);
  void* arguments[] = {&args};
  check(kOp, "launch a cooperative kernel",
        // The cast: CUDA 12's header has an overload for pointers to objects only.
        cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel),
                                    dim3(static_cast<unsigned>(num_blocks)),
                                    dim3(static_cast<unsigned>(threads)), arguments,
                                    static_cast<size_t>(bytes), to_cuda(stream)));
}

template <typename T>
void launch_rows(const SinkhornPlan& plan, SinkhornArgs& args, const Stream& stream) {
  const int64_t bytes = shared_bytes(plan, args.num_rows, args.num_columns);
  with_row_shape(args.num_columns, [&](auto shape) {
    using Shape = decltype(shape);
    const auto kernel = plan.keeps_rows
                            ? sinkhorn_rows_kernel<T, Shape::kLanes, Shape::kValues, true>
                            : sinkhorn_rows_kernel<T, Shape::kLanes, Shape::kValues, false>;
    launch(kernel, args, plan.num_blocks, sinkhorn_rows_threads(Shape::kValues), bytes, stream);
  });
}

}  // namespace

void plan_sinkhorn(SinkhornPlan& plan, const SinkhornProblem& problem, const DeviceLimits& limits) {
  const int64_t num_rows = problem.cost.size(0);
  const int64_t num_columns = problem.cost.size(1);
  GG_REQUIRE(num_rows <= INT32_MAX / 2 && num_columns <= INT32_MAX / 2, kOp, ": cost got shape ",
             shape_string(problem.cost), "; needs fewer than 2^30 tokens and experts");
  if (num_columns <= kMaxRowColumns) {
    plan_rows(plan, num_rows, num_columns, limits);
  } else {
    plan_wide(plan, num_rows, num_columns, limits);
  }
}

void sinkhorn(const SinkhornPlan& plan, const SinkhornProblem& problem, Workspace workspace,
              Stream stream) {
  const int64_t num_rows = problem.cost.size(0);
  const int64_t num_columns = problem.cost.size(1);
  if (problem.cost.num_elements() == 0) {
    for (void* info : {problem.iterations.data, problem.error.data}) {
      if (info == nullptr) continue;
      check(kOp, "clear its counters", cudaMemsetAsync(info, 0, 4, to_cuda(stream)));
    }
    return;
  }
  SinkhornArgs args{.cost = problem.cost.data,
                    .output = problem.output.data,
                    .num_rows = static_cast<int>(num_rows),
                    .num_columns = static_cast<int>(num_columns),
                    .num_chunks = plan.num_chunks,
                    .tolerance = static_cast<float>(problem.tolerance),
                    .max_iterations = problem.max_iterations,
                    .iterations = static_cast<int*>(problem.iterations.data),
                    .error = static_cast<float*>(problem.error.data),
                    .d0 = static_cast<float*>(workspace.data),
                    .partial = static_cast<float*>(workspace.data) + num_rows,
                    .row_max = nullptr,
                    .d1 = nullptr,
                    .change = nullptr};
  with_row_type(kOp, problem.cost.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (plan.values_per_lane > 0) return launch_rows<T>(plan, args, stream);
    args.row_max = args.partial;
    args.d1 = args.row_max + num_rows;
    args.change = args.d1 + num_columns;
    args.partial = args.change + num_columns;
    launch(sinkhorn_wide_kernel<T>, args, plan.num_blocks, kSinkhornThreads, 0, stream);
  });
}

}  // namespace gg::cuda
