// Path sm90 on Hopper with few blocks, so that a block runs many tiles and the last, partial
// wave of them is cut in two: every row and column must still be written once. Against double
// with the CPU's bounds; outputs poisoned, buffers guarded.
#include <gtest/gtest.h>

#include "cuda/gemm/sm90/door.h"
#include "cuda/support/device.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

enum class Tiles { kGeneral, kNarrow, kDeep };

struct Wave {
  const char* name;
  int num_sms;
  std::vector<int64_t> sizes;
  int64_t num_n;
  Tiles tiles = Tiles::kGeneral;
};
void PrintTo(const Wave& wave, std::ostream* out) { *out << wave.name; }

// General tiles have 128 features and at most 256 tokens, narrow and deep ones 64 and 128.
const Wave kWaves[] = {
    {"LessThanOne", 8, {256}, 384},                     // 3 tiles: 2 halves each
    {"LessThanOneOfShortTiles", 8, {70, 17}, 128},      // halves of 64 and 6 rows; of 17 and none
    {"OfHalvesWithoutRows", 12, {50, 50, 50, 51}, 40},  // the first group's, too
    {"Whole", 3, {256, 0, 512}, 384},                   // 9 tiles: none is cut
    {"WholeAndAPart", 4, {300, 1, 511}, 256},           // 10 tiles
    {"WithOddEnds", 7, {257, 33, 513, 0, 129}, 136},    // 14 + 2 tiles, the last columns 8 wide
    {"OneBlock", 1, {300, 40}, 264},                    // its last wave is a whole one
    {"TwoClasses", 6, {400, 3, 300, 90, 0, 144, 145, 610, 1}, 264},
    {"OnlySmallGroups", 6, {16, 3, 100, 90, 0, 144, 5, 61, 1}, 264},
    {"OfNarrowTiles", 3, {129, 3, 0, 64, 65, 1, 17, 130, 5}, 136, Tiles::kNarrow},
    {"OfNarrowHalvesWithoutRows", 3, {50, 50, 50, 51}, 40, Tiles::kNarrow},
    {"LessThanOneOfNarrowTiles", 11, {128, 90, 1, 257}, 192, Tiles::kNarrow},
    {"OneBlockOfNarrowTiles", 1, {1, 2, 200, 31, 33, 7, 0, 100}, 72, Tiles::kNarrow},
    {"OfDeepHalvesWithoutRows", 12, {50, 50, 50, 51}, 40, Tiles::kDeep},
    {"LessThanOneOfDeepTiles", 40, {128, 90, 1, 257}, 192, Tiles::kDeep},
    {"MoreDeepTilesThanBlocks", 8, {1000, 1, 1, 1}, 64, Tiles::kDeep},
};

// Shorter and longer than what a tile has left to store when the next one begins.
constexpr int64_t kReductions[] = {8, 72, 136, 264};

class Sm90Waves : public OnDeviceWith<Wave> {
 protected:
  void SetUp() override {
    OnDeviceWith<Wave>::SetUp();
    if (IsSkipped()) return;
    if (!cuda::sm90::is_built()) GTEST_SKIP() << "needs a build for architecture 90a";
    target_ = Target::cuda(0);
    if (target_.limits.compute_capability != 90) GTEST_SKIP() << "needs compute capability 9.0";
    target_.force_path = Path::kSm90;
    if (GetParam().tiles == Tiles::kGeneral) {
      target_.max_sms = GetParam().num_sms;  // of more: narrow tiles do not serve
    } else {
      target_.limits.num_sms = GetParam().num_sms;
    }
  }
  const Target& target() const { return target_; }

 private:
  Target target_;
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};
INSTANTIATE_TEST_SUITE_P(, Sm90Waves, testing::ValuesIn(kWaves),
                         [](const auto& info) { return std::string(info.param.name); });

void expect_multiplied(const GmmCase& gmm, bool on_host, const Target& target, Tiles tiles) {
  DeviceTensor tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out);
  const TensorView values = on_host ? gmm.groups.view() : sizes.view();
  const GmmPlan plan =
      run_on_device(GmmProblem{.tokens = tokens.view(),
                               .weights = weights.view(),
                               .groups = groups_of(values, gmm.kind.cumulative, on_host),
                               .out = out.view()},
                    target);
  EXPECT_EQ(plan.policy.tile_n, tiles == Tiles::kGeneral ? 128 : 64);
  EXPECT_EQ(plan.policy.stages, tiles == Tiles::kDeep ? 8 : 0);
  EXPECT_TRUE(is_close(out.download(), gmm.expected()));
}

TEST_P(Sm90Waves, AreMultipliedWhole) {
  for (int64_t k : kReductions) {
    for (Layout weights : {Layout::kPlain, Layout::kTransposed}) {
      for (DType out_dtype : {DType::kBFloat16, DType::kFloat32}) {
        SCOPED_TRACE(testing::Message() << "K=" << k << " layout " << static_cast<int>(weights)
                                        << " to " << to_string(out_dtype));
        GmmCase gmm({"", GetParam().sizes}, {k, GetParam().num_n}, DType::kBFloat16, out_dtype,
                    /*extra_rows=*/3);
        gmm.weights =
            laid_out(DType::kBFloat16, {gmm.weights.size(0), gmm.weights.size(1), k}, weights);
        fill_random(gmm.weights, 2);
        expect_multiplied(gmm, weights == Layout::kPlain, target(), GetParam().tiles);
      }
    }
  }
}

TEST_P(Sm90Waves, AreSummedWhole) {
  const WgradCase wgrad({"", GetParam().sizes}, {72, GetParam().num_n}, DType::kBFloat16,
                        DType::kFloat32, /*accumulate=*/false, /*extra_rows=*/3);
  DeviceTensor dy(wgrad.dy), tokens(wgrad.tokens), sizes(wgrad.groups), out(wgrad.out);
  run_on_device(GmmWgradProblem{.dy = dy.view(),
                                .tokens = tokens.view(),
                                .groups = groups_of(sizes.view(), wgrad.kind.cumulative, false),
                                .out = out.view()},
                target());
  EXPECT_TRUE(is_close(out.download(), wgrad.expected()));
}

}  // namespace
}  // namespace gg::test
