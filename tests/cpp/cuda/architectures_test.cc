// Which devices a build's code runs on. Needs no GPU.
#include "cuda/common/architectures.h"

#include <gtest/gtest.h>

namespace gg::cuda {
namespace {

TEST(Architectures, MachineCodeRunsOnItsOwnAndLaterOnesOfTheSameMajorNumber) {
  EXPECT_TRUE(is_code_for("75", 75));
  EXPECT_FALSE(is_code_for("75", 70));
  EXPECT_FALSE(is_code_for("75", 80));
  EXPECT_TRUE(is_code_for("70", 75));
  EXPECT_TRUE(is_code_for("80;86", 89));
  EXPECT_FALSE(is_code_for("86;89", 80));
}

TEST(Architectures, PtxRunsOnAllLaterOnes) {
  EXPECT_TRUE(is_code_for("75+PTX", 120));
  EXPECT_FALSE(is_code_for("75+PTX", 70));
  EXPECT_TRUE(is_code_for("90a;80+PTX", 86));
}

TEST(Architectures, CodeOfOneArchitectureOrFamilyStaysThere) {
  EXPECT_TRUE(is_code_for("90a", 90));
  EXPECT_FALSE(is_code_for("90a", 100));
  EXPECT_FALSE(is_code_for("90a+PTX", 100));
  EXPECT_TRUE(is_code_for("100f", 103));
  EXPECT_FALSE(is_code_for("100f", 120));
}

TEST(Architectures, NoneRunNowhere) {
  EXPECT_FALSE(is_code_for("", 75));
  EXPECT_FALSE(is_code_for(";", 75));
}

}  // namespace
}  // namespace gg::cuda
