// Group sizes on their way to a kernel: already on the device, or carried there
// by value in kernel parameters, so that host sizes cost no wait and no copy
// that a graph could not capture.
#pragma once

#include <cuda_runtime.h>

#include "grouped_gemm/tensor_view.h"

namespace gg::cuda {

// What a kernel sees: E sizes or cumulative ends in device memory.
struct DeviceGroups {
  const void* data;
  int64_t num_groups;
  bool is_int64;
  bool cumulative;
};

// Scratch that host sizes need on the device; 0 for device sizes.
int64_t groups_workspace_bytes(const GroupSizes& groups);

// Queues what is needed and returns where the sizes will be.
DeviceGroups to_device(const char* op, const GroupSizes& groups, Workspace workspace,
                       cudaStream_t stream);

}  // namespace gg::cuda
