// Orders of features in a warpgroup's registers: each feature has one place, and by banks no
// access of a warp meets itself. Needs no GPU.
#include "cuda/gemm/sm90/feature_order.h"

#include <gtest/gtest.h>

#include <set>

namespace gg::cuda::sm90 {
namespace {

template <class Order>
void expect_every_feature_once() {
  std::set<int> features;
  for (int warp = 0; warp < 4; ++warp) {
    for (int lane = 0; lane < 32; lane += 4) {
      for (int i = 0; i < 2; ++i) features.insert(Order::of(warp, lane, i));
      for (int l = lane + 1; l < lane + 4; ++l) {
        EXPECT_EQ(Order::of(warp, l, 1), Order::of(warp, lane, 1)) << "lanes that share rows";
      }
    }
  }
  EXPECT_EQ(features.size(), 64u);
  EXPECT_EQ(*features.begin(), 0);
  EXPECT_EQ(*features.rbegin(), 63);
}

TEST(FeatureOrders, HaveAPlaceForEveryFeature) {
  expect_every_feature_once<FeaturesInOrder>();
  expect_every_feature_once<FeaturesByBanks>();
}

// Of a word of 32 bits in the 128-byte swizzle, rows of 32 features.
int bank(int row, int feature) { return (feature % 32 / 4 ^ row % 8) * 4 + feature % 4; }

template <class Order, class Row>
void expect_no_conflicts(Row row) {
  for (int warp = 0; warp < 4; ++warp) {
    for (int i = 0; i < 2; ++i) {
      std::set<int> banks;
      for (int lane = 0; lane < 32; ++lane) {
        banks.insert(bank(row(lane), Order::of(warp, lane, i)));
      }
      EXPECT_EQ(banks.size(), 32u) << "warp " << warp << ", i " << i;
    }
  }
}

template <class Order>
void expect_four_steps_read_at_once() {
  std::set<int> steps;
  for (int j = 0; j < 2; ++j) {
    expect_no_conflicts<Order>([=](int lane) { return Order::step(lane, j); });
    for (int lane = 0; lane < 4; ++lane) steps.insert(Order::step(lane, j));
  }
  EXPECT_EQ(steps, (std::set<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(FeatureOrders, ReadFourStepsAtOnce) {
  expect_four_steps_read_at_once<FeaturesInOrder>();
  expect_four_steps_read_at_once<FeaturesByBanks>();
}

TEST(FeatureOrders, ByBanksWriteFourTokensOfTheOutputAtOnce) {
  for (int j = 0; j < 2; ++j) {
    expect_no_conflicts<FeaturesByBanks>([=](int lane) { return lane % 4 * 2 + j; });
  }
}

}  // namespace
}  // namespace gg::cuda::sm90
