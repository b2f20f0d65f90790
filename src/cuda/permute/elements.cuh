// 16 bytes of an element type to floats and back, with the roundings of number.cuh.
#pragma once

#include "cuda/common/number.cuh"

namespace gg::cuda {

template <typename T>
struct Elements {
  static constexpr int kCount = 16 / sizeof(T);

  __device__ static __forceinline__ void unpack(const uint4& v, float (&floats)[kCount]) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int w = 0; w < 4; ++w) unpack_word(words[w], floats + w * (kCount / 4));
  }
  __device__ static __forceinline__ uint4 pack(const float (&floats)[kCount]) {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) words[w] = pack_word(floats + w * (kCount / 4));
    return make_uint4(words[0], words[1], words[2], words[3]);
  }

 private:
  __device__ static __forceinline__ void unpack_word(uint32_t word, float* floats);
  __device__ static __forceinline__ uint32_t pack_word(const float* floats);
};

template <>
__device__ __forceinline__ void Elements<float>::unpack_word(uint32_t word, float* floats) {
  floats[0] = __uint_as_float(word);
}
template <>
__device__ __forceinline__ uint32_t Elements<float>::pack_word(const float* floats) {
  return __float_as_uint(floats[0]);
}

template <>
__device__ __forceinline__ void Elements<__nv_bfloat16>::unpack_word(uint32_t word, float* floats) {
  floats[0] = __uint_as_float(word << 16);
  floats[1] = __uint_as_float(word & 0xffff0000u);
}
template <>
__device__ __forceinline__ uint32_t Elements<__nv_bfloat16>::pack_word(const float* floats) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(floats[0], floats[1]);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <>
__device__ __forceinline__ void Elements<__half>::unpack_word(uint32_t word, float* floats) {
  const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
  floats[0] = pair.x;
  floats[1] = pair.y;
}
template <>
__device__ __forceinline__ uint32_t Elements<__half>::pack_word(const float* floats) {
  const __half2 pair = __floats2half2_rn(floats[0], floats[1]);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// A float8 is exact as a half. By asm, so that conversions name their half of a word, where
// the toolkit's functions shift it and join what they made.
template <__nv_fp8_interpretation_t kKind>
__device__ __forceinline__ void unpack_float8(uint32_t word, float* floats) {
  __half2_raw halves[2];
#if __CUDA_ARCH__ >= 890
  uint32_t low, high;
  if constexpr (kKind == __NV_E4M3) {
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2;\n\t"
        "cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h;}"
        : "=r"(low), "=r"(high)
        : "r"(word));
  } else {
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2;\n\t"
        "cvt.rn.f16x2.e5m2x2 %0, l; cvt.rn.f16x2.e5m2x2 %1, h;}"
        : "=r"(low), "=r"(high)
        : "r"(word));
  }
  halves[0] = *reinterpret_cast<const __half2_raw*>(&low);
  halves[1] = *reinterpret_cast<const __half2_raw*>(&high);
#else
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    halves[pair] = __nv_cvt_fp8x2_to_halfraw2(
        static_cast<__nv_fp8x2_storage_t>(word >> 16 * pair & 0xffffu), kKind);
  }
#endif
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const float2 two = __half22float2(__half2(halves[pair]));
    floats[2 * pair] = two.x;
    floats[2 * pair + 1] = two.y;
  }
}
// Saturating, as the hardware does two at a time.
template <__nv_fp8_interpretation_t kKind>
__device__ __forceinline__ uint32_t pack_float8(const float* floats) {
  uint32_t word = 0;
#if __CUDA_ARCH__ >= 890
  if constexpr (kKind == __NV_E4M3) {
    asm("{.reg .b16 l, h; cvt.rn.satfinite.e4m3x2.f32 l, %2, %1;\n\t"
        "cvt.rn.satfinite.e4m3x2.f32 h, %4, %3; mov.b32 %0, {l, h};}"
        : "=r"(word)
        : "f"(floats[0]), "f"(floats[1]), "f"(floats[2]), "f"(floats[3]));
  } else {
    asm("{.reg .b16 l, h; cvt.rn.satfinite.e5m2x2.f32 l, %2, %1;\n\t"
        "cvt.rn.satfinite.e5m2x2.f32 h, %4, %3; mov.b32 %0, {l, h};}"
        : "=r"(word)
        : "f"(floats[0]), "f"(floats[1]), "f"(floats[2]), "f"(floats[3]));
  }
#else
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const float2 two = make_float2(floats[2 * pair], floats[2 * pair + 1]);
    word |= uint32_t{__nv_cvt_float2_to_fp8x2(two, __NV_SATFINITE, kKind)} << 16 * pair;
  }
#endif
  return word;
}
// From half way between an e5m2's largest finite value and the next power of two on it is
// Inf and does not saturate, whatever the hardware says.
inline constexpr float kFirstInfiniteE5M2 = 61440.0f;
__device__ __forceinline__ uint32_t without_saturation(uint32_t byte, float value) {
  if (fabsf(value) < kFirstInfiniteE5M2) return byte;
  const uint32_t sign = __float_as_uint(value) >> 24 & 0x80u;
  return sign | (isnan(value) ? 0x7eu : 0x7cu);
}

template <>
__device__ __forceinline__ void Elements<Float8E4M3>::unpack_word(uint32_t word, float* floats) {
  unpack_float8<__NV_E4M3>(word, floats);
}
template <>
__device__ __forceinline__ uint32_t Elements<Float8E4M3>::pack_word(const float* floats) {
  return pack_float8<__NV_E4M3>(floats);
}
template <>
__device__ __forceinline__ void Elements<Float8E5M2>::unpack_word(uint32_t word, float* floats) {
  unpack_float8<__NV_E5M2>(word, floats);
}
template <>
__device__ __forceinline__ uint32_t Elements<Float8E5M2>::pack_word(const float* floats) {
  const uint32_t saturated = pack_float8<__NV_E5M2>(floats);
  bool is_small = true;  // false for NaN, too
#pragma unroll
  for (int i = 0; i < 4; ++i) is_small = is_small && fabsf(floats[i]) < kFirstInfiniteE5M2;
  if (is_small) return saturated;
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    word |= without_saturation(saturated >> 8 * i & 0xffu, floats[i]) << 8 * i;
  }
  return word;
}

// kCount consecutive probs, all in flight together; 0 for those at and past `count`.
template <int kCount>
__device__ __forceinline__ void load_probs(const FloatPointer& probs, int64_t first, int count,
                                           float (&values)[kCount]) {
  if (probs.dtype == DType::kFloat32) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      values[j] = j < count ? static_cast<const float*>(probs.data)[first + j] : 0.0f;
    }
    return;
  }
  unsigned short bits[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    bits[j] = j < count ? static_cast<const unsigned short*>(probs.data)[first + j] : 0;
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    values[j] = probs.dtype == DType::kBFloat16
                    ? __uint_as_float(static_cast<uint32_t>(bits[j]) << 16)
                    : __half2float(__ushort_as_half(bits[j]));
  }
}

}  // namespace gg::cuda
