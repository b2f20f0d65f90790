// Element types on the device: conversion to and from the type that sums are
// kept in, and vectors of them. Used by every kernel that computes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "grouped_gemm/types.h"

namespace gg::cuda {

using Float8E4M3 = __nv_fp8_e4m3;
using Float8E5M2 = __nv_fp8_e5m2;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(Float8E4M3 value) { return static_cast<float>(value); }
__device__ __forceinline__ float to_float(Float8E5M2 value) { return static_cast<float>(value); }

// One rounding to nearest even. e4m3 saturates at 448, e5m2 overflows to Inf.
template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ Float8E4M3 from_float<Float8E4M3>(float value) {
  Float8E4M3 result;
  result.__x = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
  return result;
}
template <>
__device__ __forceinline__ Float8E5M2 from_float<Float8E5M2>(float value) {
  Float8E5M2 result;
  result.__x = __nv_cvt_float_to_fp8(value, __NV_NOSAT, __NV_E5M2);
  return result;
}

// kCount elements that are read and written by one instruction.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T values[kCount];
};

// Plain memory of kBytes: for kernels that only move.
template <int kBytes>
struct BytesOf;
template <>
struct BytesOf<16> {
  using type = uint4;
};
template <>
struct BytesOf<8> {
  using type = uint2;
};
template <>
struct BytesOf<4> {
  using type = uint32_t;
};
template <>
struct BytesOf<2> {
  using type = uint16_t;
};
template <>
struct BytesOf<1> {
  using type = uint8_t;
};

// A floating-point value whose type is known at run time only: probs.
struct FloatPointer {
  const void* data;
  DType dtype;

  __device__ __forceinline__ float load(int64_t index) const {
    switch (dtype) {
      case DType::kBFloat16: return to_float(static_cast<const __nv_bfloat16*>(data)[index]);
      case DType::kFloat16: return to_float(static_cast<const __half*>(data)[index]);
      default: return static_cast<const float*>(data)[index];
    }
  }
};

// An integer likewise: ids, row maps, group sizes.
struct IntegerPointer {
  const void* data;
  bool is_int64;

  __device__ __forceinline__ int64_t load(int64_t index) const {
    return is_int64 ? static_cast<const int64_t*>(data)[index]
                    : static_cast<const int32_t*>(data)[index];
  }
};

}  // namespace gg::cuda
