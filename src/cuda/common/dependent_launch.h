// Launches where a kernel may start while the one before it in the stream still
// runs, if that one lets it (dependent_launch.cuh).
#pragma once

#include <atomic>

#include "cuda/common/launch.h"

namespace gg::cuda {

// Whether the current device runs kernels of this build that know how to wait
// for the kernel before them.
bool can_launch_dependent();

struct LaunchShape {
  int64_t num_blocks;
  int num_threads;
  int64_t shared_bytes = 0;
  bool dependent = false;  // on the previous kernel of the stream
};

// Kernels that are to overlap must agree on how an SM divides its memory between
// L1 and shared memory, since it changes that when it is empty only. H200, 2026-11-22:
// all shared against half, the map of 1 M slots 14.5 us against 23; moe_permute of
// 32768x8x4096x128 0.82 to 0.865 of copy (two runs) against 0.81.
inline constexpr int kSharedPercent = 100;

// Says so once for each kernel and device; a preference, not a limit.
template <auto* kKernel>
void prefer_common_split(const char* op) {
  static std::atomic<uint64_t> devices_told{0};
  int device = 0;
  check(op, "tell which device is current", cudaGetDevice(&device));
  const uint64_t bit = uint64_t{1} << (device % 64);
  if (device < 64 && (devices_told.load(std::memory_order_relaxed) & bit) != 0) return;
  check(op, "divide its caches",
        cudaFuncSetAttribute(kKernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             kSharedPercent));
  devices_told.fetch_or(bit, std::memory_order_relaxed);
}

template <typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), const LaunchShape& shape,
            cudaStream_t stream, const Arguments&... arguments) {
  allow_shared_bytes(op, kernel, shape.shared_bytes);
  cudaLaunchAttribute dependent{};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.num_blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.num_threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = &dependent;
  config.numAttrs = shape.dependent && can_launch_dependent() ? 1 : 0;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
  cudaGetLastError();  // a refused launch must not haunt the next one
  check(op, "launch a kernel", status);
}

}  // namespace gg::cuda
