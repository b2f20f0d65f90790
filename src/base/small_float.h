// The 16-bit and 8-bit floating-point formats as plain C++ types for the CPU
// path: storage plus conversion to and from float, round to nearest even.
// Formats: IEEE 754 binary16; bfloat16; OCP 8-bit floating point (e4m3fn, e5m2).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace gg::base {

// A format with kExponent exponent bits and kMantissa mantissa bits in Bits.
// kHasInf: the largest exponent is Inf/NaN (IEEE); else only all ones is NaN.
// kSaturate: values too large become the largest finite one instead of Inf/NaN.
template <typename Bits, int kExponent, int kMantissa, bool kHasInf, bool kSaturate>
struct SmallFloat {
  Bits bits = 0;

  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr int kSignShift = kExponent + kMantissa;
  static constexpr uint32_t kMagnitudeMask = (1u << kSignShift) - 1;
  static constexpr uint32_t kNan =
      kHasInf ? (kMagnitudeMask & ~((1u << (kMantissa - 1)) - 1)) : kMagnitudeMask;
  static constexpr uint32_t kInf = ((1u << kExponent) - 1) << kMantissa;
  static constexpr uint32_t kMaxFinite = kHasInf ? kInf - 1 : kMagnitudeMask - 1;

  SmallFloat() = default;
  explicit SmallFloat(float value) : bits(encode(value)) {}
  explicit operator float() const { return decode(bits); }

  static Bits encode(float value) {
    const uint32_t raw = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (raw >> 31) << kSignShift;
    const uint32_t magnitude = raw & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<Bits>(sign | kNan);
    return static_cast<Bits>(sign | round_magnitude(magnitude));
  }

  static float decode(Bits stored) {
    const uint32_t sign = (static_cast<uint32_t>(stored) >> kSignShift) << 31;
    const uint32_t magnitude = static_cast<uint32_t>(stored) & kMagnitudeMask;
    const uint32_t exponent = magnitude >> kMantissa;
    if constexpr (kHasInf) {
      if (magnitude >= kInf) {
        const uint32_t payload = (magnitude - kInf) << (23 - kMantissa);
        return std::bit_cast<float>(sign | 0x7f800000u | payload);
      }
    } else if (magnitude == kMagnitudeMask) {
      return std::bit_cast<float>(sign | 0x7fc00000u);
    }
    if (exponent == 0) {  // zero and subnormals: an exact product
      const float value = std::ldexp(static_cast<float>(magnitude), 1 - kBias - kMantissa);
      return sign != 0 ? -value : value;
    }
    const uint32_t shifted = (magnitude << (23 - kMantissa)) + ((127u - kBias) << 23);
    return std::bit_cast<float>(sign | shifted);
  }

 private:
  static uint32_t round_magnitude(uint32_t magnitude) {
    const int exponent = static_cast<int>(magnitude >> 23) - 127;
    if (magnitude == 0x7f800000u) return kSaturate ? kMaxFinite : (kHasInf ? kInf : kNan);
    uint32_t rounded;
    if (exponent >= 1 - kBias) {
      constexpr int kShift = 23 - kMantissa;
      const uint32_t rebased = magnitude - ((127u - kBias) << 23);
      const uint32_t half = (1u << (kShift - 1)) - 1 + ((rebased >> kShift) & 1);
      rounded = (rebased + half) >> kShift;
    } else {  // subnormal or zero; nearbyint rounds to even in the default mode
      const float value = std::bit_cast<float>(magnitude);
      rounded = static_cast<uint32_t>(std::nearbyint(std::ldexp(value, kBias - 1 + kMantissa)));
    }
    if (rounded <= kMaxFinite) return rounded;
    return kSaturate ? kMaxFinite : (kHasInf ? kInf : kNan);
  }
};

using Half = SmallFloat<uint16_t, 5, 10, true, false>;
using Float8E4M3 = SmallFloat<uint8_t, 4, 3, false, true>;
using Float8E5M2 = SmallFloat<uint8_t, 5, 2, true, false>;

// bfloat16 is the upper half of a float: cheaper than the general format.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t raw = std::bit_cast<uint32_t>(value);
    bits = std::isnan(value) ? static_cast<uint16_t>((raw >> 16) | 0x40)
                             : static_cast<uint16_t>((raw + 0x7fff + ((raw >> 16) & 1)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

}  // namespace gg::base
