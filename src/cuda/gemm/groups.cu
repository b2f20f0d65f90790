#include "cuda/gemm/groups.h"

#include <algorithm>

#include "cuda/common/launch.h"

namespace gg::cuda {
namespace {

// Kernel parameters may take 4 KB on every toolkit and architecture.
constexpr int64_t kValuesPerLaunch = 500;

struct Values {
  int64_t values[kValuesPerLaunch];
};

__global__ void write_values(Values source, int64_t* target, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) target[i] = source.values[i];
}

int64_t host_value(const GroupSizes& groups, int64_t index) {
  return groups.dtype == DType::kInt32 ? static_cast<const int32_t*>(groups.data)[index]
                                       : static_cast<const int64_t*>(groups.data)[index];
}

}  // namespace

int64_t groups_workspace_bytes(const GroupSizes& groups) {
  return groups.on_host ? groups.num_groups * int64_t{sizeof(int64_t)} : 0;
}

DeviceGroups to_device(const char* op, const GroupSizes& groups, Workspace workspace,
                       cudaStream_t stream) {
  if (!groups.on_host) {
    return {groups.data, groups.num_groups, groups.dtype == DType::kInt64, groups.cumulative};
  }
  int64_t* target = static_cast<int64_t*>(workspace.data);
  for (int64_t first = 0; first < groups.num_groups; first += kValuesPerLaunch) {
    const int count = static_cast<int>(std::min(kValuesPerLaunch, groups.num_groups - first));
    Values values;
    for (int i = 0; i < count; ++i) values.values[i] = host_value(groups, first + i);
    write_values<<<1, 256, 0, stream>>>(values, target + first, count);
    check_launch(op);
  }
  return {target, groups.num_groups, true, groups.cumulative};
}

}  // namespace gg::cuda
