#include "cuda/gemm/sm90/scratch.h"

#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/dependent_launch.h"
#include "cuda/gemm/sm90/policy.h"

namespace gg::cuda::sm90 {
namespace {

constexpr int kCounters = kClaimsBytes / static_cast<int64_t>(sizeof(unsigned));

// A kernel, not a memset: while a memset runs, the GEMM behind it cannot already start. 4 to
// 7 us a call less (H200, 2026-11-23).
__global__ void clear(unsigned* claims) {
  cuda::ptx::wait_for_previous_kernel();
  cuda::ptx::let_next_kernel_start();
  claims[threadIdx.x] = 0;
}

}  // namespace

Scratch prepare(const char* op, const GmmPlan& plan, const GroupSizes& groups, Workspace workspace,
                Stream stream) {
  const int64_t bytes = plan.workspace_bytes - groups_workspace_bytes(groups);
  const Workspace rest{static_cast<char*>(workspace.data) + bytes, workspace.bytes - bytes};
  Scratch scratch{.groups = to_device(op, groups, rest, to_cuda(stream)), .claims = nullptr};
  if (bytes == 0) return scratch;
  scratch.claims = static_cast<unsigned*>(workspace.data);
  launch(op, clear, {.num_blocks = 1, .num_threads = kCounters, .dependent = true}, to_cuda(stream),
         scratch.claims);
  return scratch;
}

}  // namespace gg::cuda::sm90
