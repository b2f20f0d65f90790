// Which views of one buffer count as apart: never two that share an element, and the layouts that
// callers cut out of one buffer do.
#include "core/overlap.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <utility>
#include <vector>

#include "support/run.h"

namespace gg::core {
namespace {

using test::refuses;

constexpr Argument kOut{"gmm", "out"};
constexpr int64_t kRows = 6;
constexpr int64_t kColumns = 12;

// Elements of a buffer that a view of it covers, in some order, with repetitions.
std::vector<int64_t> elements(const TensorView& tensor, const float* buffer) {
  const int64_t start = static_cast<const float*>(tensor.data) - buffer;
  std::vector<int64_t> found;
  for (int64_t i = 0; i < tensor.size(0); ++i) {
    for (int64_t j = 0; j < tensor.size(1); ++j) {
      found.push_back(start + i * tensor.stride(0) + j * tensor.stride(1));
    }
  }
  return found;
}

class Overlap : public testing::Test {
 protected:
  std::vector<float> buffer = std::vector<float>(kRows * kColumns * 4);

  // Columns first..first + count of a [rows, columns] matrix in the buffer.
  TensorView columns(int64_t first, int64_t count) const {
    return view(buffer.data() + first, DType::kFloat32, {kRows, count}, {kColumns, 1});
  }
  static void expect_apart(const TensorView& out, const TensorView& operand) {
    EXPECT_NO_THROW(require_apart(kOut, out, "a", operand));
    EXPECT_NO_THROW(require_apart(kOut, operand, "a", out));
  }
  static void expect_refused(const TensorView& out, const TensorView& operand) {
    EXPECT_TRUE(refuses([&] { require_apart(kOut, out, "a", operand); },
                        {"gmm: out got memory that a lies in", "needs memory of its own"}));
    EXPECT_TRUE(refuses([&] { require_apart(kOut, operand, "a", out); }, {"lies in"}));
  }
};

TEST_F(Overlap, NoneOfColumnRangesOfOneMatrix) {
  expect_apart(columns(0, 4), columns(4, 8));
  expect_apart(columns(0, 1), columns(11, 1));
  expect_refused(columns(0, 4), columns(3, 6));
  expect_refused(columns(0, kColumns), columns(3, 1));
}

TEST_F(Overlap, NoneOfRowsThatTakeTurns) {
  const auto every_second = [&](int64_t first) {
    return view(buffer.data() + first * kColumns, DType::kFloat32, {3, kColumns},
                {2 * kColumns, 1});
  };
  expect_apart(every_second(0), every_second(1));
  expect_refused(every_second(0), every_second(2));
}

TEST_F(Overlap, NoneOfColumnsOfEveryMatrixOfAStack) {
  const auto part = [&](int64_t first, int64_t count) {
    return view(buffer.data() + first, DType::kFloat32, {3, count, 5}, {2 * kColumns, 1, 4});
  };
  expect_apart(part(0, 2), part(2, 2));
  expect_refused(part(0, 3), part(2, 2));
}

TEST_F(Overlap, OfViewsOfOtherDtypesIsCountedInBytes) {
  const TensorView half = view(buffer.data() + 4, DType::kFloat16, {kRows, 4}, {2 * kColumns, 1});
  expect_apart(columns(0, 4), half);
  expect_apart(columns(6, 2), half);
  expect_refused(columns(5, 2), half);
}

TEST_F(Overlap, IsNeverMissed) {
  std::mt19937 random(1);
  const auto below = [&](int64_t limit) {
    return std::uniform_int_distribution<int64_t>(0, limit - 1)(random);
  };
  const auto any_view = [&] {
    const int64_t pitch = 1 + below(12);
    const int64_t stride = 1 + below(3);
    TensorView any = view(buffer.data() + below(60), DType::kFloat32, {1 + below(5), 1 + below(5)});
    any.strides = {pitch, stride};
    if (below(2) == 0) std::swap(any.strides[0], any.strides[1]);
    return any;
  };
  int num_apart = 0;
  for (int i = 0; i < 20000; ++i) {
    const TensorView left = any_view();
    const TensorView right = any_view();
    const std::vector<int64_t> of_left = elements(left, buffer.data());
    const std::set<int64_t> distinct(of_left.begin(), of_left.end());
    if (!refuses([&] { require_distinct_elements(kOut, left); }, {"do not overlap"})) {
      ASSERT_EQ(distinct.size(), of_left.size()) << shape_string(left);
    }
    if (refuses([&] { require_apart(kOut, left, "a", right); }, {"lies in"})) continue;
    ++num_apart;
    for (int64_t element : elements(right, buffer.data())) {
      ASSERT_FALSE(distinct.contains(element)) << shape_string(left) << shape_string(right);
    }
  }
  EXPECT_GT(num_apart, 4000);
}

TEST_F(Overlap, OfAnOutWithItselfIsRefused) {
  const auto with_strides = [&](int64_t rows, int64_t columns) {
    return view(buffer.data(), DType::kFloat32, {4, 3}, {rows, columns});
  };
  for (const TensorView& out : {with_strides(3, 1), with_strides(1, 4), with_strides(7, 2)}) {
    EXPECT_NO_THROW(require_distinct_elements(kOut, out));
  }
  for (const TensorView& out : {with_strides(2, 1), with_strides(1, 3), with_strides(0, 1)}) {
    EXPECT_TRUE(refuses([&] { require_distinct_elements(kOut, out); },
                        {"gmm: out got stride", "do not overlap"}));
  }
}

}  // namespace
}  // namespace gg::core
