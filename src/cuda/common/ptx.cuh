// Instructions without a C++ name that every architecture has, one function each.
#pragma once

namespace gg::cuda::ptx {

// prefetch.global.L2
__device__ __forceinline__ void prefetch_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

}  // namespace gg::cuda::ptx
