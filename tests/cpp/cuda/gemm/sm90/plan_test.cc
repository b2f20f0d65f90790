// Which problems take path sm90, and what the plan says of those that do not.
// Needs no GPU.
#include <gtest/gtest.h>

#include <utility>

#include "cuda/gemm/sm90/door.h"
#include "cuda/support/limits.h"

namespace gg::test {
namespace {

constexpr DeviceLimits kHopper{
    .compute_capability = 90, .num_sms = 132, .shared_bytes_per_block = 232448};
constexpr DeviceLimits kBlackwell{
    .compute_capability = 100, .num_sms = 148, .shared_bytes_per_block = 232448};

TensorView bf16(std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides = {},
                uintptr_t address = 0) {
  return view(reinterpret_cast<const void*>(address), DType::kBFloat16, sizes, strides);
}

GmmProblem problem_of(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k) {
  return {.tokens = bf16({num_rows, k}),
          .weights = bf16({num_experts, n, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = bf16({num_rows, n})};
}

// PTX-only builds, for forced older paths, have no 90a.
class With90a : public testing::Test {
 protected:
  void SetUp() override {
    if (!cuda::sm90::is_built()) GTEST_SKIP() << "needs a build for architecture 90a";
  }
};

class Sm90Plans : public With90a {
 protected:
  static GmmPlan plan(const GmmProblem& problem, Path force = Path::kAuto) {
    Target target = Target::cuda(kHopper);
    target.force_path = force;
    return plan_gmm(problem, target);
  }
  static void expect_passed_over(const GmmProblem& problem, std::string_view because) {
    const GmmPlan chosen = plan(problem);
    EXPECT_NE(chosen.path, Path::kSm90);
    EXPECT_NE(chosen.because.find(because), std::string_view::npos) << chosen.because;
    EXPECT_TRUE(refuses([&] { plan(problem, Path::kSm90); }, {std::string(because)}));
  }

 private:
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};

TEST_F(Sm90Plans, PrintThePathAndItsTile) {
  const GmmPlan chosen = plan(problem_of(4096, 8, 1024, 512));
  EXPECT_EQ(to_string(chosen),
            "gmm sm90 tile=256x128x64 small_rows=144 blocks<=132 workspace=128B");
}

TEST_F(Sm90Plans, RunSmallGroupsBesideLargeOnesWhereBothMayOccur) {
  EXPECT_EQ(plan(problem_of(65536, 128, 1536, 2048)).policy.small_rows, 144);
  EXPECT_EQ(plan(problem_of(1024 * 32, 32, 4096, 7168)).policy.small_rows, 144);
  EXPECT_EQ(plan(problem_of(1024 * 32 + 1, 32, 4096, 7168)).policy.small_rows, 0);  // large ones
  EXPECT_EQ(plan(problem_of(4096, 7, 4096, 7168)).policy.small_rows, 0);            // few groups
  EXPECT_EQ(plan(problem_of(66560, 1024, 64, 64)).policy.small_rows, 144);
  EXPECT_EQ(plan(problem_of(66625, 1025, 64, 64)).policy.small_rows, 0);  // too many to look at
}

TEST_F(Sm90Plans, KeepBlocksInStepOverLongReductions) {
  EXPECT_FALSE(plan(problem_of(16384, 8, 4096, 16384)).policy.equal_tiles);
  const GmmPlan chosen = plan(problem_of(16384, 4, 4096, 28672));
  EXPECT_TRUE(chosen.policy.equal_tiles);
  EXPECT_EQ(to_string(chosen), "gmm sm90 tile=256x128x64 equal_tiles blocks<=132 workspace=128B");
}

TEST_F(Sm90Plans, TakeNoMoreMultiprocessorsThanTheyMay) {
  Target target = Target::cuda(kHopper);
  for (const auto& [most, blocks] : {std::pair{0, 132}, {1, 1}, {100, 100}, {1000, 132}}) {
    target.max_sms = most;
    EXPECT_EQ(plan_gmm(problem_of(65536, 8, 4096, 512), target).num_blocks, blocks) << most;
  }
}

class Sm90WgradPlans : public With90a {
 protected:
  static GmmPlan plan(int64_t rows_per_group, DType out, bool accumulate) {
    constexpr int64_t kGroups = 16, kN = 1024, kK = 768;
    const int64_t num_rows = rows_per_group * kGroups;
    GmmWgradProblem problem{.dy = bf16({num_rows, kN}),
                            .tokens = bf16({num_rows, kK}),
                            .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, kGroups),
                            .out = view(nullptr, out, {kGroups, kN, kK}),
                            .accumulate = accumulate};
    return plan_gmm_wgrad(problem, Target::cuda(kHopper));
  }

 private:
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};

TEST_F(Sm90WgradPlans, TakeWideTilesToStore) {
  for (const DType out : {DType::kBFloat16, DType::kFloat32}) {
    for (const int64_t rows : {1, 512, 4096}) EXPECT_EQ(plan(rows, out, false).policy.tile_n, 256);
  }
}

TEST_F(Sm90WgradPlans, TakeNarrowTilesToAddUnlessProductsDecide) {
  EXPECT_EQ(plan(1, DType::kFloat32, true).policy.tile_n, 192);
  EXPECT_EQ(plan(1023, DType::kFloat32, true).policy.tile_n, 192);
  EXPECT_EQ(plan(1024, DType::kFloat32, true).policy.tile_n, 256);
  EXPECT_EQ(plan(4096, DType::kBFloat16, true).policy.tile_n, 192);
}

TEST_F(Sm90WgradPlans, TakeFloat32ThatMayBeRoundedToTf32) {
  constexpr int64_t kGroups = 16, kRows = 8192;
  GmmWgradProblem problem{.dy = view(nullptr, DType::kFloat32, {kRows, 1024}),
                          .tokens = view(nullptr, DType::kFloat32, {kRows, 768}),
                          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, kGroups),
                          .out = view(nullptr, DType::kFloat32, {kGroups, 1024, 768})};
  EXPECT_NE(plan_gmm_wgrad(problem, Target::cuda(kHopper)).path, Path::kSm90);
  problem.allow_tf32 = true;
  for (const bool accumulate : {false, true}) {
    problem.accumulate = accumulate;
    EXPECT_EQ(to_string(plan_gmm_wgrad(problem, Target::cuda(kHopper))),
              "gmm_wgrad sm90 tile=128x256x32 small_rows=144 blocks<=132 workspace=128B");
  }
}

TEST_F(Sm90WgradPlans, PrintTheirTile) {
  EXPECT_EQ(to_string(plan(512, DType::kFloat32, true)),
            "gmm_wgrad sm90 tile=128x192x64 small_rows=144 blocks<=132 workspace=128B");
}

TEST_F(Sm90Plans, TakeNoMoreBlocksThanThereCanBeTiles) {
  EXPECT_EQ(plan(problem_of(8, 8, 1024, 512)).num_blocks, 128);
  EXPECT_EQ(plan(problem_of(0, 8, 1024, 512)).num_blocks, 1);
  EXPECT_EQ(plan(problem_of(65 * 40, 40, 1024, 512)).num_blocks, 132);
}

TEST_F(Sm90Plans, CountTheHalvesOfTilesThatAreLongEnough) {
  EXPECT_EQ(plan(problem_of(64, 1, 1024, 512)).num_blocks, 16);
  EXPECT_EQ(plan(problem_of(65, 1, 1024, 512)).num_blocks, 32);
}

TEST_F(Sm90Plans, TakeNarrowTilesForGroupsOfAFewRows) {
  EXPECT_EQ(to_string(plan(problem_of(2048, 64, 3072, 4096))),
            "gmm sm90 tile=128x64x64 blocks<=264 workspace=128B");
  EXPECT_EQ(plan(problem_of(64 * 64, 64, 3072, 4096)).policy.tile_n, 64);
  EXPECT_EQ(plan(problem_of(64 * 64 + 1, 64, 3072, 4096)).policy.tile_n, 128);
}

TEST_F(Sm90Plans, TakeNarrowTilesWhereWideOnesWouldBeFew) {
  EXPECT_EQ(plan(problem_of(512, 2, 33 * 128, 1024)).policy.tile_n, 64);  // at most 132 of them
  EXPECT_EQ(plan(problem_of(512, 2, 33 * 128 + 8, 1024)).policy.tile_n, 128);
}

TEST_F(Sm90Plans, TakeDeepPipelinesWhereNarrowTilesAreFew) {
  EXPECT_EQ(to_string(plan(problem_of(4 * 64, 4, 33 * 64, 4096))),
            "gmm sm90 tile=128x64x64 stages=8 blocks<=132 workspace=128B");
  EXPECT_EQ(plan(problem_of(4 * 64, 4, 33 * 64 + 8, 4096)).policy.stages, 0);
  EXPECT_EQ(plan(problem_of(256, 1, 66 * 64, 4096)).policy.stages, 8);  // two tiles of tokens
  EXPECT_EQ(plan(problem_of(257, 1, 66 * 64, 4096)).policy.stages, 0);
  EXPECT_EQ(plan(problem_of(132, 4096, 64, 4096)).policy.stages, 8);  // a row for some groups
  EXPECT_EQ(plan(problem_of(133, 4096, 64, 4096)).policy.stages, 0);
}

TEST_F(Sm90Plans, NeedNoCountersWhereEachBlockTakesOneTile) {
  EXPECT_EQ(to_string(plan(problem_of(512, 4, 256, 256))),
            "gmm sm90 tile=128x64x64 stages=8 blocks<=64 workspace=0B");
  EXPECT_EQ(plan(problem_of(512, 4, 8 * 64, 256)).workspace_bytes, 0);  // 128 halves at most
  EXPECT_EQ(plan(problem_of(512, 4, 9 * 64, 256)).workspace_bytes, 128);
  GmmProblem problem = problem_of(512, 4, 256, 256);
  const int64_t sizes[] = {128, 128, 128, 128};
  problem.groups = GroupSizes::on_host_sizes(sizes, DType::kInt64, 4);
  EXPECT_EQ(plan(problem).workspace_bytes, 4 * 8);  // the sizes on their way
}

TEST_F(Sm90Plans, TakeWideTilesWhereNarrowOnesDoNotServe) {
  GmmProblem problem = problem_of(64, 4, 63, 64);  // threads store
  EXPECT_EQ(plan(problem).policy.tile_n, 128);
  problem = problem_of(64, 4, 64, 64);
  Target target = Target::cuda(kHopper);
  target.max_sms = 16;  // others want the rest: two blocks might not share a multiprocessor
  EXPECT_EQ(plan_gmm(problem, target).policy.tile_n, 128);
  EXPECT_EQ(plan_gmm(problem, target).num_blocks, 4);
}

TEST_F(Sm90Plans, HoldForEveryLayoutAndOutputThatTheKernelKnows) {
  GmmProblem problem = problem_of(4096, 8, 1000, 520);
  problem.weights = transposed(bf16({8, 520, 1000}));
  EXPECT_EQ(plan(problem).path, Path::kSm90);
  problem.out.dtype = DType::kFloat32;
  EXPECT_EQ(plan(problem).path, Path::kSm90);
  for (TensorView* tensor : {&problem.tokens, &problem.weights, &problem.out}) {
    tensor->dtype = DType::kFloat16;
  }
  EXPECT_EQ(plan(problem).path, Path::kSm90);
}

TEST_F(Sm90Plans, HoldForAnyNWithKMajorWeights) {
  for (int64_t n : {1, 7, 129}) EXPECT_EQ(plan(problem_of(64, 4, n, 64)).path, Path::kSm90) << n;
}

TEST_F(Sm90Plans, HoldForPaddedRows) {
  GmmProblem problem = problem_of(64, 4, 32, 7);
  problem.tokens = bf16({64, 7}, {8, 1});
  problem.weights = bf16({4, 32, 7}, {256, 8, 1});
  EXPECT_EQ(plan(problem).path, Path::kSm90);
}

TEST_F(Sm90Plans, TakeFloat32ThatMayBeRoundedToTf32WhicheverWayWeightsLie) {
  GmmProblem problem = problem_of(4096, 8, 1024, 512);
  for (TensorView* tensor : {&problem.tokens, &problem.weights, &problem.out}) {
    tensor->dtype = DType::kFloat32;
  }
  problem.allow_tf32 = true;
  const std::string expected = "gmm sm90 tile=256x128x32 small_rows=144 blocks<=132 workspace=128B";
  EXPECT_EQ(to_string(plan(problem)), expected);
  problem.weights = transposed(bf16({8, 512, 1024}));
  problem.weights.dtype = DType::kFloat32;
  EXPECT_EQ(to_string(plan(problem)), expected);
  problem.weights = view(nullptr, DType::kFloat32, {8, 1024, 512}, {512 * 1026, 1, 1026});
  expect_passed_over(problem, "b has no contiguous dimension whose rows lie a multiple of 16");
}

TEST_F(Sm90Plans, HoldForThousandsOfGroups) {
  EXPECT_EQ(plan(problem_of(4096, 4096, 256, 64)).path, Path::kSm90);
}

TEST_F(Sm90Plans, SayWhyTheyFallBack) {
  GmmProblem problem = problem_of(64, 4, 64, 64);
  for (TensorView* tensor : {&problem.tokens, &problem.weights, &problem.out}) {
    tensor->dtype = DType::kFloat32;
  }
  expect_passed_over(problem, "it is not allowed to round them to tf32");
  expect_passed_over(problem_of(64, 4, 64, 0), "K is 0");
  expect_passed_over(problem_of(64, 4, 64, 9), "the distance of a's rows");

  problem = problem_of(64, 4, 9, 64);
  problem.weights = transposed(bf16({4, 64, 9}));
  expect_passed_over(problem, "b has no contiguous dimension");

  problem = problem_of(64, 4, 64, 64);
  problem.tokens = bf16({64, 64}, {}, 8);
  expect_passed_over(problem, "a's address");
  problem.tokens = bf16({64, 64}, {0, 0});
  expect_passed_over(problem, "a's rows are not contiguous");
  problem.tokens = bf16({64, 64}, {0, 1});
  expect_passed_over(problem, "the distance of a's rows");
}

// What other devices take instead: paths_test.cc.
TEST_F(Sm90Plans, AreMadeForComputeCapability90Only) {
  const GmmPlan chosen = plan_gmm(problem_of(64, 4, 64, 64), Target::cuda(kBlackwell));
  EXPECT_NE(chosen.path, Path::kSm90);
  EXPECT_EQ(chosen.because, "");  // it is the best that this device has
  Target forced = Target::cuda(kBlackwell);
  forced.force_path = Path::kSm90;
  EXPECT_TRUE(refuses([&] { plan_gmm(problem_of(64, 4, 64, 64), forced); }, {"10.0", "9.0"}));
}

TEST_F(Sm90Plans, GiveWayToAForcedPortablePath) {
  EXPECT_EQ(plan(problem_of(64, 4, 64, 64), Path::kPortable).path, Path::kPortable);
}

}  // namespace
}  // namespace gg::test
