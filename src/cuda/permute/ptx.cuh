// What the permutation asks of the memory system, one PTX instruction a
// function. Older architectures do without the hints that they lack, and copy
// to shared memory through registers: no result depends on any of it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/ptx.cuh"

namespace gg::cuda::ptx {

// 16 bytes that are used once. Not the read-only path: the kernel before may have
// written them after this one began. (ld.global)
__device__ __forceinline__ uint4 load_once(const void* address) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// The same of rows that may stay in L1. (ld.global)
__device__ __forceinline__ uint4 load(const void* address) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// 8 bytes that may stay in L1. (ld.global)
__device__ __forceinline__ uint2 load8(const void* address) {
  uint2 v;
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(address));
  return v;
}

// 16 bytes from global to shared memory, past L1; they are there after wait_for_copies() of
// this thread. (cp.async.cg)
__device__ __forceinline__ void copy_to_shared(uint4& target, const void* source) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&target)),
               "l"(source)
               : "memory");
#else
  target = load_once(source);
#endif
}

// (cp.async.wait_all)
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// (createpolicy)
__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy = 0;
#if __CUDA_ARCH__ >= 800
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

// 16 bytes that this kernel will not read: they leave L2 before anything else,
// so that rows fetched ahead stay. (st.global)
__device__ __forceinline__ void store_evict_first(void* address, uint4 v, uint64_t policy) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "st.global.L1::no_allocate.L2::cache_hint.v4.u32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(address),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "l"(policy)
      : "memory");
#else
  __stcs(static_cast<uint4*>(address), v);
#endif
}

// Asks for memory to be brought into L2, which it leaves after everything else; nobody
// waits for it. Address and size are multiples of 16 bytes. (createpolicy,
// cp.async.bulk.prefetch)
__device__ __forceinline__ void prefetch_evict_last(const void* address, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;" ::"l"(address),
               "r"(bytes), "l"(policy)
               : "memory");
#endif
}

}  // namespace gg::cuda::ptx
