// What every launch of this backend needs: error checks that name the operator,
// and the stream type. Host code of src/cuda only.
#pragma once

#include <cuda_runtime.h>

#include "base/check.h"
#include "cuda/door.h"
#include "grouped_gemm/types.h"

namespace gg::cuda {

inline void check(const char* op, const char* what, cudaError_t status) {
  const bool has_no_kernel =
      status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion;
  GG_REQUIRE(!has_no_kernel, op,
             ": got a device that this build has no kernels for; needs one of "
             "the architectures built, ",
             built_architectures(),
             "; rebuild with "
             "GG_CUDA_ARCHS=native on this machine");
  GG_REQUIRE(status == cudaSuccess, op, ": the CUDA device refused to ", what, ": ",
             cudaGetErrorString(status));
}

// After every <<<>>>: reports what the launch itself refused.
inline void check_launch(const char* op) { check(op, "launch a kernel", cudaGetLastError()); }

inline cudaStream_t to_cuda(const Stream& stream) { return static_cast<cudaStream_t>(stream.cuda); }

// More than 48 KB of shared memory must be asked for, of which the kernel may declare
// some itself.
template <typename Kernel>
void allow_shared_bytes(const char* op, Kernel* kernel, int64_t bytes) {
  constexpr int64_t kWithoutAsking = 32 * 1024;
  if (bytes <= kWithoutAsking) return;
  check(op, "grant shared memory",
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)));
}

}  // namespace gg::cuda
