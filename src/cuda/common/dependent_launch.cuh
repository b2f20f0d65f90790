// The device side of dependent_launch.h. Older architectures do without: a kernel
// may be launched as dependent only where wait_for_previous_kernel() is more than
// nothing, which can_launch_dependent() tells.
//
// In an operator of several launches the first kernel waits and only then lets the next
// one start; so the others may read the operator's inputs before they wait. Every
// kernel that is launched as dependent waits in at least one block, and so a kernel
// that has ended means that all before it have.
#pragma once

#include <cuda_runtime.h>

namespace gg::cuda::ptx {

// Before this call a kernel launched by LaunchShape::dependent may run while the
// previous kernel of the stream still does; after it that kernel has ended and
// its writes are visible. (griddepcontrol.wait)
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Once every block of this grid has said so or ended, the next kernel of the
// stream may start. (griddepcontrol.launch_dependents)
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace gg::cuda::ptx
