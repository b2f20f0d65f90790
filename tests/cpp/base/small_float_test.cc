// The 16-bit and 8-bit formats, code by code: every code of every format is
// decoded against the format's formula, encoded back, and its neighbourhood is
// rounded.
#include "base/small_float.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace gg::base {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kQuietNan = std::numeric_limits<float>::quiet_NaN();

// What the formats' papers say, apart from the code under test.
template <typename T>
struct Format;
template <>
struct Format<Half> {
  static constexpr int exponent_bits = 5, mantissa_bits = 10, max_code = 0x7BFF;
  static constexpr double largest = 65504, smallest = 0x1p-24;
  static constexpr bool has_infinity = true, saturates = false;
};
template <>
struct Format<BFloat16> {
  static constexpr int exponent_bits = 8, mantissa_bits = 7, max_code = 0x7F7F;
  static constexpr double largest = 0x1.FEp127, smallest = 0x1p-133;
  static constexpr bool has_infinity = true, saturates = false;
};
template <>
struct Format<Float8E4M3> {
  static constexpr int exponent_bits = 4, mantissa_bits = 3, max_code = 0x7E;
  static constexpr double largest = 448, smallest = 0x1p-9;
  static constexpr bool has_infinity = false, saturates = true;
};
template <>
struct Format<Float8E5M2> {
  static constexpr int exponent_bits = 5, mantissa_bits = 2, max_code = 0x7B;
  static constexpr double largest = 57344, smallest = 0x1p-16;
  static constexpr bool has_infinity = true, saturates = false;
};

template <typename T>
class SmallFloatTest : public testing::Test {
 protected:
  using F = Format<T>;
  static constexpr int kSignBit = 1 << (F::exponent_bits + F::mantissa_bits);

  static float decoded(int code) {
    T value;
    value.bits = static_cast<decltype(value.bits)>(code);
    return static_cast<float>(value);
  }
  static int encoded(float value) { return T(value).bits; }

  // Value of a finite code without its sign: the textbook formula.
  static double value_of(int code) {
    const int exponent = code >> F::mantissa_bits;
    const int mantissa = code & ((1 << F::mantissa_bits) - 1);
    const int bias = (1 << (F::exponent_bits - 1)) - 1;
    const double fraction = std::ldexp(mantissa, -F::mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - bias)
                         : std::ldexp(1 + fraction, exponent - bias);
  }
};

using Formats = testing::Types<Half, BFloat16, Float8E4M3, Float8E5M2>;
struct FormatNames {
  template <typename T>
  static std::string GetName(int i) {
    constexpr const char* kNames[] = {"Float16", "BFloat16", "Float8E4M3", "Float8E5M2"};
    return kNames[i];
  }
};
TYPED_TEST_SUITE(SmallFloatTest, Formats, FormatNames);

TYPED_TEST(SmallFloatTest, EveryFiniteCodeHasTheValueOfItsFormula) {
  for (int code = 0; code <= TestFixture::F::max_code; ++code) {
    ASSERT_EQ(this->decoded(code), this->value_of(code)) << "code " << code;
    ASSERT_EQ(this->decoded(code | this->kSignBit), -this->value_of(code)) << "code " << code;
  }
  EXPECT_EQ(this->decoded(TestFixture::F::max_code), TestFixture::F::largest);
  EXPECT_EQ(this->decoded(1), TestFixture::F::smallest);
}

TYPED_TEST(SmallFloatTest, EveryCodeSurvivesTheRoundTripThroughFloat) {
  for (int code = 0; code < 2 * this->kSignBit; ++code) {
    const float value = this->decoded(code);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(this->decoded(this->encoded(value)))) << "code " << code;
    } else if (std::isinf(value) || std::fabs(value) <= TestFixture::F::largest) {
      ASSERT_EQ(this->encoded(value), code);
    }
  }
}

TYPED_TEST(SmallFloatTest, CodesBeyondTheLargestFiniteOneAreInfinityAndNan) {
  for (int code = TestFixture::F::max_code + 1; code < this->kSignBit; ++code) {
    const bool is_infinity = TestFixture::F::has_infinity && code == TestFixture::F::max_code + 1;
    ASSERT_EQ(std::isinf(this->decoded(code)), is_infinity) << "code " << code;
    ASSERT_EQ(std::isnan(this->decoded(code)), !is_infinity) << "code " << code;
  }
}

TYPED_TEST(SmallFloatTest, HalfwayBetweenTwoCodesRoundsToTheEvenOne) {
  for (int code = 0; code < TestFixture::F::max_code; ++code) {
    const float middle = static_cast<float>((this->value_of(code) + this->value_of(code + 1)) / 2);
    const int even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(this->encoded(middle), even) << "between codes " << code << " and " << code + 1;
    ASSERT_EQ(this->encoded(-middle), even | this->kSignBit);
  }
}

TYPED_TEST(SmallFloatTest, BesideTheHalfwayPointTheNearerCodeWins) {
  for (int code = 0; code < TestFixture::F::max_code; ++code) {
    const float middle = static_cast<float>((this->value_of(code) + this->value_of(code + 1)) / 2);
    ASSERT_EQ(this->encoded(std::nextafter(middle, 0.0f)), code);
    ASSERT_EQ(this->encoded(std::nextafter(middle, kInfinity)), code + 1);
  }
}

TYPED_TEST(SmallFloatTest, SignsOfZeroAreKept) {
  EXPECT_EQ(this->encoded(0.0f), 0);
  EXPECT_EQ(this->encoded(-0.0f), this->kSignBit);
  EXPECT_TRUE(std::signbit(this->decoded(this->kSignBit)));
}

TYPED_TEST(SmallFloatTest, ValuesBelowHalfTheSmallestCodeBecomeZeroOfTheirSign) {
  const float half = static_cast<float>(TestFixture::F::smallest / 2);
  EXPECT_EQ(this->encoded(half), 0) << "a tie goes to the even code, zero";
  EXPECT_EQ(this->encoded(-half), this->kSignBit);
  EXPECT_EQ(this->encoded(std::numeric_limits<float>::denorm_min()), 0);
}

TYPED_TEST(SmallFloatTest, NanStaysNan) {
  EXPECT_TRUE(std::isnan(this->decoded(this->encoded(kQuietNan))));
  EXPECT_TRUE(std::isnan(this->decoded(this->encoded(-kQuietNan))));
  const float low_payload = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(this->decoded(this->encoded(low_payload))))
      << "a payload in the bits that are cut off must not turn NaN into infinity";
}

TYPED_TEST(SmallFloatTest, WhatIsTooLargeSaturatesOrOverflowsAsTheFormatSays) {
  const float too_large[] = {std::numeric_limits<float>::max(), kInfinity};
  for (float value : too_large) {
    const float expected =
        TestFixture::F::saturates ? static_cast<float>(TestFixture::F::largest) : kInfinity;
    EXPECT_EQ(this->decoded(this->encoded(value)), expected) << value;
    EXPECT_EQ(this->decoded(this->encoded(-value)), -expected) << value;
  }
}

TYPED_TEST(SmallFloatTest, OverflowStartsHalfAStepBeyondTheLargestCode) {
  const double step = TestFixture::F::largest - this->value_of(TestFixture::F::max_code - 1);
  const float limit = static_cast<float>(TestFixture::F::largest + step / 2);
  EXPECT_EQ(this->encoded(std::nextafter(limit, 0.0f)), TestFixture::F::max_code);
  const int beyond = TestFixture::F::max_code + (TestFixture::F::saturates ? 0 : 1);
  EXPECT_EQ(this->encoded(limit), beyond);
  EXPECT_EQ(this->encoded(std::nextafter(limit, kInfinity)), beyond);
}

TEST(KnownValues, OfFloat16) {
  EXPECT_EQ(Half(1.0f).bits, 0x3C00);
  EXPECT_EQ(Half(-2.0f).bits, 0xC000);
  EXPECT_EQ(Half(1.0f / 3.0f).bits, 0x3555);
  EXPECT_EQ(Half(65504.0f).bits, 0x7BFF);
  EXPECT_EQ(Half(65520.0f).bits, 0x7C00);
  EXPECT_EQ(Half(0x1p-14f).bits, 0x0400);
  EXPECT_EQ(Half(0x1p-24f).bits, 0x0001);
}

TEST(KnownValues, OfBFloat16) {
  EXPECT_EQ(BFloat16(1.0f).bits, 0x3F80);
  EXPECT_EQ(BFloat16(-2.0f).bits, 0xC000);
  EXPECT_EQ(BFloat16(3.14159265f).bits, 0x4049);
  EXPECT_EQ(BFloat16(kInfinity).bits, 0x7F80);
}

TEST(KnownValues, OfFloat8E4M3) {
  EXPECT_EQ(Float8E4M3(1.0f).bits, 0x38);
  EXPECT_EQ(Float8E4M3(448.0f).bits, 0x7E);
  EXPECT_EQ(Float8E4M3(-1000.0f).bits, 0xFE);
  EXPECT_EQ(Float8E4M3(0x1p-6f).bits, 0x08);
  EXPECT_EQ(Float8E4M3(kQuietNan).bits & 0x7F, 0x7F);
}

TEST(KnownValues, OfFloat8E5M2) {
  EXPECT_EQ(Float8E5M2(1.0f).bits, 0x3C);
  EXPECT_EQ(Float8E5M2(57344.0f).bits, 0x7B);
  EXPECT_EQ(Float8E5M2(61440.0f).bits, 0x7C);
  EXPECT_EQ(Float8E5M2(0x1p-14f).bits, 0x04);
}

}  // namespace
}  // namespace gg::base
