// Comparisons: every element has its own bound, never a norm alone; and bits
// are compared where bits are promised.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/tensor.h"

namespace gg::test {

inline testing::AssertionResult same_bits(const Tensor& actual, const Tensor& expected) {
  if (actual.dtype() != expected.dtype() || actual.view().sizes != expected.view().sizes) {
    return testing::AssertionFailure()
           << "got " << to_string(actual.dtype()) << shape_string(actual.view()) << ", expected "
           << to_string(expected.dtype()) << shape_string(expected.view());
  }
  const std::vector<unsigned char> got = actual.bytes();
  const std::vector<unsigned char> wanted = expected.bytes();
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == wanted[i]) continue;
    const int64_t element = static_cast<int64_t>(i) / actual.element_bytes();
    return testing::AssertionFailure()
           << "element " << element << " of " << actual.num_elements() << " got "
           << actual.get(element) << ", expected " << expected.get(element) << " to the bit";
  }
  return testing::AssertionSuccess();
}

inline testing::AssertionResult all_zero(const Tensor& tensor) {
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    if (tensor.get(i) != 0) {
      return testing::AssertionFailure() << "element " << i << " got " << tensor.get(i);
    }
  }
  return testing::AssertionSuccess();
}

// Distance from 1 to the next number, and between the smallest ones.
struct Precision {
  double epsilon;
  double smallest;
};

inline Precision precision_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return {0x1p-52, 0x1p-1074};
    case DType::kFloat32: return {0x1p-23, 0x1p-149};
    case DType::kFloat16: return {0x1p-10, 0x1p-24};
    case DType::kBFloat16: return {0x1p-7, 0x1p-133};
    case DType::kFloat8E4M3: return {0x1p-3, 0x1p-9};
    case DType::kFloat8E5M2: return {0x1p-2, 0x1p-16};
    default: return {0, 0};
  }
}

// What one rounding of `value` to `dtype` may cost.
inline double rounding_error(DType dtype, double value) {
  const Precision precision = precision_of(dtype);
  return precision.epsilon / 2 * std::fabs(value) + precision.smallest;
}

// Values in double, and how far each may be off before the result is rounded.
struct Expected {
  std::vector<double> values;
  std::vector<double> tolerances;

  explicit Expected(int64_t count = 0)
      : values(static_cast<size_t>(count)), tolerances(static_cast<size_t>(count)) {}
};

inline testing::AssertionResult is_close(const Tensor& actual, const Expected& expected) {
  if (static_cast<size_t>(actual.num_elements()) != expected.values.size()) {
    return testing::AssertionFailure()
           << "got " << actual.num_elements() << " elements, expected " << expected.values.size();
  }
  for (int64_t i = 0; i < actual.num_elements(); ++i) {
    const double wanted = expected.values[static_cast<size_t>(i)];
    const double tolerance = expected.tolerances[static_cast<size_t>(i)];
    const double bound = tolerance + rounding_error(actual.dtype(), std::fabs(wanted) + tolerance);
    const double error = std::fabs(actual.get(i) - wanted);
    const bool both_nan = std::isnan(actual.get(i)) && std::isnan(wanted);
    if (error <= bound || both_nan) continue;  // NaN is within no bound
    return testing::AssertionFailure()
           << "element " << i << " of " << actual.num_elements() << " got " << actual.get(i)
           << ", expected " << wanted << ", off by " << error << ", bound " << bound;
  }
  return testing::AssertionSuccess();
}

}  // namespace gg::test
