// The instructions of compute capability 8.0 that C++ has no name for: one function each.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/common/ptx.cuh"

namespace gg::cuda::sm80::ptx {

using cuda::ptx::pack;
using cuda::ptx::shared_address;
using cuda::ptx::unpack;

// threadIdx.x, which the compiler does not remember.
__device__ __forceinline__ int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// ---- copies -------------------------------------------------------------------------------------

// cp.async.cg, global to shared, past L1; joins this thread's open group. Where `skip`, the source
// is not read (it may lie anywhere) and zeros are written.
__device__ __forceinline__ void copy_16_bytes(uint32_t target, const void* source, bool skip) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.u32 p, %2, 0;\n"
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, p;\n"
      "}" ::"r"(target),
      "l"(source), "r"(static_cast<uint32_t>(skip))
      : "memory");
}

// cp.async.commit_group
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// cp.async.wait_group: at most kPending of this thread's groups are still on their way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- fragments ----------------------------------------------------------------------------------

// ldmatrix.x4: four matrices of 8 rows x 16 bytes; lane l gives the address of row l % 8 of
// matrix l / 8, and gets word l % 4 of row l / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

// ldmatrix.x4.trans: the same for 16-bit elements, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t address, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

// ld.shared.b32
__device__ __forceinline__ uint32_t load_word(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

// To the nearest of tf32's 11 bits. From 9.0 on cvt.rn.tf32.f32, one instruction: ties to even.
// Before, half a step is added and the tensor cores cut off the 13 bits they do not read: ties
// away from zero, as by cvt.rna.tf32.f32, which takes an instruction more. Infinities and NaN
// stay. (H200, 2026-11-23, forward, TFLOP/s: cvt.rn 191, half a step 170, cvt.rna 168.)
// NOTE: before 9.0 a NaN without any of its upper 10 bits reads as an infinity; no arithmetic
// makes one.
__device__ __forceinline__ uint32_t round_to_tf32(uint32_t word) {
#if __CUDA_ARCH__ >= 900
  uint32_t rounded;
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(word)));
  return rounded;
#else
  const bool is_finite = fabsf(__uint_as_float(word)) < __uint_as_float(0x7f800000u);
  return is_finite ? word + (1u << 12) : word;
#endif
}

// ---- products -----------------------------------------------------------------------------------

// mma.sync: c += a b, 16 rows x 8 columns, over 32 bytes of reduction (16 elements of 16
// bits, 8 of tf32).
template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                            const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void multiply_add<__half>(float (&c)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void multiply_add<float>(float (&c)[4], const uint32_t (&a)[4],
                                                    const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace gg::cuda::sm80::ptx
