// The instructions of compute capability 7.5 that C++ has no name for, one function each.
#pragma once

#include <cstdint>

#include "cuda/common/ptx.cuh"

namespace gg::cuda::sm70 {

using cuda::ptx::shared_address;

// ldmatrix: four 8 x 8 matrices of 16 bits; lane l gives the address of row l % 8 of matrix
// l / 8, and gets elements (l / 4, 2 (l % 4)) and its right neighbour of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&parts)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
               : "r"(address)
               : "memory");
}

// The same of each matrix's transpose.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&parts)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
               : "r"(address)
               : "memory");
}

// sums [16, 8] += left [16, 8] right [8, 8]: left in two parts of 8 rows.
__device__ __forceinline__ void mma_m16n8k8(float* sums, uint32_t left_top, uint32_t left_bottom,
                                            uint32_t right) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left_top), "r"(left_bottom), "r"(right));
}

}  // namespace gg::cuda::sm70
