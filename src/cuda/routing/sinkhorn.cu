// sinkhorn on CUDA: plan and launch. Kernel: sinkhorn.cuh.
#include "cuda/routing/sinkhorn.cuh"

#include "base/math.h"
#include "cuda/common/dispatch.h"
#include "cuda/common/launch.h"
#include "cuda/door.h"

namespace gg::cuda {
namespace {

constexpr const char* kOp = "sinkhorn";
// Rows that one warp sums before partial sums are worth their exchange.
constexpr int64_t kRowsPerChunk = 64;
constexpr int64_t kMaxChunks = 256;
// Two blocks of 256 threads fit on every multiprocessor since 7.0, so the whole
// cooperative grid runs at once.
constexpr int64_t kBlocksPerSm = 2;

template <typename Function>
void with_cost_type(DType dtype, const Function& function) {
  with_number_type(kOp, dtype, [&](auto tag) {
    if constexpr (sizeof(typename decltype(tag)::type) >= 2) function(tag);
  });
}

}  // namespace

void plan_sinkhorn(SinkhornPlan& plan, const SinkhornProblem& problem, const DeviceLimits& limits) {
  const int64_t num_rows = problem.cost.size(0);
  const int64_t num_columns = problem.cost.size(1);
  GG_REQUIRE(num_rows <= INT32_MAX / 2 && num_columns <= INT32_MAX / 2, kOp, ": cost got shape ",
             shape_string(problem.cost), "; needs fewer than 2^30 tokens and experts");
  plan.num_chunks =
      static_cast<int>(base::clamp(base::ceil_div(num_rows, kRowsPerChunk), 1, kMaxChunks));
  plan.num_blocks = static_cast<int>(base::clamp(base::ceil_div(num_rows, kSinkhornWarps), 1,
                                                 kBlocksPerSm * base::max(1, limits.num_sms)));
  plan.workspace_bytes =
      (2 * num_rows + (2 + plan.num_chunks) * num_columns) * int64_t{sizeof(float)};
}

void sinkhorn(const SinkhornPlan& plan, const SinkhornProblem& problem, Workspace workspace,
              Stream stream) {
  const int64_t num_rows = problem.cost.size(0);
  const int64_t num_columns = problem.cost.size(1);
  float* row_max = static_cast<float*>(workspace.data);
  float* d0 = row_max + num_rows;
  float* d1 = d0 + num_rows;
  float* change = d1 + num_columns;
  SinkhornArgs args{.cost = problem.cost.data,
                    .output = problem.output.data,
                    .num_rows = static_cast<int>(num_rows),
                    .num_columns = static_cast<int>(num_columns),
                    .num_chunks = plan.num_chunks,
                    .tolerance = static_cast<float>(problem.tolerance),
                    .max_iterations = problem.max_iterations,
                    .iterations = static_cast<int*>(problem.iterations.data),
                    .error = static_cast<float*>(problem.error.data),
                    .row_max = row_max,
                    .d0 = d0,
                    .d1 = d1,
                    .change = change,
                    .partial = change + num_columns};
  if (problem.cost.num_elements() == 0) {
    for (void* info : {problem.iterations.data, problem.error.data}) {
      if (info == nullptr) continue;
      check(kOp, "clear its counters", cudaMemsetAsync(info, 0, 4, to_cuda(stream)));
    }
    return;
  }
  with_cost_type(problem.cost.dtype, [&](auto tag) {
    void* arguments[] = {&args};
    check(kOp, "launch a cooperative kernel",
          cudaLaunchCooperativeKernel(sinkhorn_kernel<typename decltype(tag)::type>,
                                      dim3(static_cast<unsigned>(plan.num_blocks)),
                                      dim3(kSinkhornThreads), arguments, 0, to_cuda(stream)));
  });
}

}  // namespace gg::cuda
