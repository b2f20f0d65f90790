// Path simt on a GPU, both of its tiles: groups that end in every part of a tile, of which the
// first 64 rows of a large one are multiplied alone. Against double with the CPU's bounds;
// outputs poisoned, buffers guarded.
#include <gtest/gtest.h>

#include "cuda/gemm/simt/policy.h"
#include "cuda/support/device.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

// One multiprocessor takes large tiles; all of a GPU's are more than such a problem fills.
struct Menu {
  const char* name;
  int max_sms;
  int tile_m;
};
constexpr Menu kMenu[] = {{"LargeTiles", 1, cuda::simt::LargeTile::kRows},
                          {"SmallTiles", 0, cuda::simt::SmallTile::kRows}};
void PrintTo(const Menu& menu, std::ostream* out) { *out << menu.name; }

class Simt : public OnDeviceWith<Menu> {
 protected:
  void SetUp() override {
    OnDeviceWith<Menu>::SetUp();
    if (IsSkipped()) return;
    target_ = Target::cuda(0);
    if (target_.limits.num_sms < 64) GTEST_SKIP() << "large tiles would fill this GPU";
    target_.max_sms = GetParam().max_sms;
    target_.force_path = Path::kSimt;
  }

  template <typename Problem>
  void run_there(const Problem& problem) const {
    ASSERT_EQ(run_on_device(problem, target_).policy.tile_m, GetParam().tile_m);
  }

 private:
  Target target_;
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};
INSTANTIATE_TEST_SUITE_P(, Simt, testing::ValuesIn(kMenu),
                         [](const auto& info) { return std::string(info.param.name); });

const GroupShape kEnds{"", {64, 65, 1, 128, 192, 0, 193, 63}};
constexpr int64_t kReductions[] = {20, 21, 64};  // whole vectors of four, and not

TEST_P(Simt, MultipliesGroupsThatEndAnywhereInATile) {
  for (DType dtype : kGemmDTypes) {
    for (Layout weights : {Layout::kPlain, Layout::kTransposed}) {
      for (int64_t k : kReductions) {
        SCOPED_TRACE(testing::Message()
                     << to_string(dtype) << " K=" << k << " layout " << static_cast<int>(weights));
        GmmCase gmm(kEnds, {k, 300}, dtype, dtype, /*extra_rows=*/3);
        gmm.weights = laid_out(dtype, {kEnds.num_experts(), 300, k}, weights);
        fill_random(gmm.weights, 2);
        DeviceTensor tokens(gmm.tokens), matrices(gmm.weights), sizes(gmm.groups), out(gmm.out);
        run_there(GmmProblem{.tokens = tokens.view(),
                             .weights = matrices.view(),
                             .groups = groups_of(sizes.view(), false, false),
                             .out = out.view()});
        EXPECT_TRUE(is_close(out.download(), gmm.expected()));
      }
    }
  }
}

TEST_P(Simt, ReducesGroupsOfAnyLength) {
  for (DType dtype : kGemmDTypes) {
    for (bool accumulate : {false, true}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << (accumulate ? " added" : ""));
      const WgradCase wgrad(kEnds, {300, 132}, dtype, dtype, accumulate, /*extra_rows=*/3);
      DeviceTensor dy(wgrad.dy), tokens(wgrad.tokens), sizes(wgrad.groups), out(wgrad.out);
      run_there(GmmWgradProblem{.dy = dy.view(),
                                .tokens = tokens.view(),
                                .groups = groups_of(sizes.view(), false, false),
                                .out = out.view(),
                                .accumulate = accumulate});
      EXPECT_TRUE(is_close(out.download(), wgrad.expected()));
    }
  }
}

}  // namespace
}  // namespace gg::test
