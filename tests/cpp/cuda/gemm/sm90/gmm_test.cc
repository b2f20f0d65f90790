// Path sm90 on Hopper with few blocks, so that a block runs many tiles and the last, partial
// wave of them is cut into parts: every row and column must still be written once. Against
// double with the CPU's bounds; outputs poisoned, buffers guarded.
#include <gtest/gtest.h>

#include "cuda/support/device.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

struct Wave {
  const char* name;
  int max_sms;
  std::vector<int64_t> sizes;
  int64_t num_n;
};
void PrintTo(const Wave& wave, std::ostream* out) { *out << wave.name; }

// Feature tiles have 128 columns, token tiles at most 256 rows.
const Wave kWaves[] = {
    {"LessThanOne", 8, {256}, 384},                   // 3 tiles: 2 parts each
    {"LessThanOneOfShortTiles", 8, {70, 17}, 128},    // a part of 64 rows, the other of 6; none
    {"Whole", 3, {256, 0, 512}, 384},                 // 9 tiles: none is cut
    {"WholeAndAPart", 4, {300, 1, 511}, 256},         // 10 tiles
    {"WithOddEnds", 7, {257, 33, 513, 0, 129}, 136},  // 14 + 2 tiles, the last columns 8 wide
    {"OneBlock", 1, {300, 40}, 264},                  // its last wave is a whole one
    {"TwoClasses", 6, {400, 3, 300, 90, 0, 144, 145, 610, 1}, 264},
    {"OnlySmallGroups", 6, {16, 3, 100, 90, 0, 144, 5, 61, 1}, 264},
};

class Sm90Waves : public OnDeviceWith<Wave> {
 protected:
  void SetUp() override {
    OnDeviceWith<Wave>::SetUp();
    if (IsSkipped()) return;
    target_ = Target::cuda(0);
    if (target_.limits.compute_capability != 90) GTEST_SKIP() << "needs compute capability 9.0";
    target_.max_sms = GetParam().max_sms;
    target_.force_path = Path::kSm90;
  }

  template <typename Problem>
  void run_there(const Problem& problem) const {
    const auto plan = plan_for(problem, target_);
    DeviceTensor workspace(Tensor(DType::kFloat8E4M3, {plan.workspace_bytes}));
    run(plan, problem, Workspace{workspace.view().data, plan.workspace_bytes});
    workspace.download();
  }

 private:
  Target target_;
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};
INSTANTIATE_TEST_SUITE_P(, Sm90Waves, testing::ValuesIn(kWaves),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Sm90Waves, AreMultipliedWhole) {
  for (bool on_host : {false, true}) {
    for (DType out_dtype : {DType::kBFloat16, DType::kFloat32}) {
      SCOPED_TRACE(testing::Message() << to_string(out_dtype) << (on_host ? " host" : " device"));
      const GmmCase gmm({"", GetParam().sizes}, {72, GetParam().num_n}, DType::kBFloat16, out_dtype,
                        /*extra_rows=*/3);
      DeviceTensor tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out);
      const TensorView values = on_host ? gmm.groups.view() : sizes.view();
      run_there(GmmProblem{.tokens = tokens.view(),
                           .weights = weights.view(),
                           .groups = groups_of(values, gmm.kind.cumulative, on_host),
                           .out = out.view()});
      EXPECT_TRUE(is_close(out.download(), gmm.expected()));
    }
  }
}

TEST_P(Sm90Waves, AreSummedWhole) {
  const WgradCase wgrad({"", GetParam().sizes}, {72, GetParam().num_n}, DType::kBFloat16,
                        DType::kFloat32, /*accumulate=*/false, /*extra_rows=*/3);
  DeviceTensor dy(wgrad.dy), tokens(wgrad.tokens), sizes(wgrad.groups), out(wgrad.out);
  run_there(GmmWgradProblem{.dy = dy.view(),
                            .tokens = tokens.view(),
                            .groups = groups_of(sizes.view(), wgrad.kind.cumulative, false),
                            .out = out.view()});
  EXPECT_TRUE(is_close(out.download(), wgrad.expected()));
}

}  // namespace
}  // namespace gg::test
