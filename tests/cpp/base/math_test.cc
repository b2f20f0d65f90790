// Integer math that grids and workspaces are computed with.
#include "base/math.h"

#include <gtest/gtest.h>

#include <limits>

namespace gg::base {
namespace {

TEST(CeilDiv, RoundsUpAndKeepsExactQuotients) {
  EXPECT_EQ(ceil_div(0, 64), 0);
  EXPECT_EQ(ceil_div(1, 64), 1);
  EXPECT_EQ(ceil_div(64, 64), 1);
  EXPECT_EQ(ceil_div(65, 64), 2);
  EXPECT_EQ(ceil_div(7, 1), 7);
}

TEST(CeilDiv, IsTheSmallestCountOfPiecesThatCoverTheValue) {
  for (int64_t value = 0; value < 300; ++value) {
    for (int64_t divisor = 1; divisor < 130; ++divisor) {
      const int64_t pieces = ceil_div(value, divisor);
      EXPECT_GE(pieces * divisor, value);
      EXPECT_LT((pieces - 1) * divisor, value);
    }
  }
}

TEST(CeilDiv, WorksBeyond32Bits) {
  EXPECT_EQ(ceil_div(int64_t{1} << 40, 3), 366503875926);
  EXPECT_EQ(ceil_div((int64_t{1} << 62) + 1, 64), (int64_t{1} << 56) + 1);
}

TEST(RoundUp, GivesTheNextMultiple) {
  EXPECT_EQ(round_up(0, 16), 0);
  EXPECT_EQ(round_up(1, 16), 16);
  EXPECT_EQ(round_up(16, 16), 16);
  EXPECT_EQ(round_up(17, 16), 32);
  EXPECT_EQ(round_up((int64_t{1} << 33) + 1, 1024), (int64_t{1} << 33) + 1024);
}

TEST(MinAndMax, OrderSignedValues) {
  EXPECT_EQ(min(-3, 2), -3);
  EXPECT_EQ(max(-3, 2), 2);
  EXPECT_EQ(min(5, 5), 5);
  EXPECT_EQ(max(int64_t{1} << 40, 1), int64_t{1} << 40);
}

TEST(Clamp, MovesOnlyWhatIsOutside) {
  EXPECT_EQ(clamp(-1, 0, 10), 0);
  EXPECT_EQ(clamp(0, 0, 10), 0);
  EXPECT_EQ(clamp(7, 0, 10), 7);
  EXPECT_EQ(clamp(10, 0, 10), 10);
  EXPECT_EQ(clamp(11, 0, 10), 10);
}

TEST(Clamp, HoldsForTheExtremesThatDeviceSizesMayHold) {
  EXPECT_EQ(clamp(std::numeric_limits<int64_t>::min(), 0, 10), 0);
  EXPECT_EQ(clamp(std::numeric_limits<int64_t>::max(), 0, 10), 10);
}

static_assert(ceil_div(129, 64) == 3, "usable where a constant is needed");

}  // namespace
}  // namespace gg::base
