// Which problems take paths sm70 and sm75 and which tile, for each limit of shared memory,
// and why others do not. Needs no GPU.
#include <gtest/gtest.h>

#include "cuda/gemm/sm70/door.h"
#include "cuda/gemm/sm70/policy.h"
#include "cuda/support/limits.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

using cuda::sm70::choose_k_grouped;
using cuda::sm70::choose_m_grouped;

constexpr GmmPolicy kWide{256, 128, 32};
constexpr GmmPolicy kGeneral{128, 128, 32};
constexpr GmmPolicy kSmall{64, 64, 32};

constexpr DeviceLimits limits_of(int compute_capability, int64_t shared_bytes) {
  return {.compute_capability = compute_capability,
          .num_sms = 40,
          .shared_bytes_per_block = shared_bytes};
}
constexpr DeviceLimits kVolta = limits_of(70, 96 * 1024);
constexpr DeviceLimits kTuring = limits_of(75, 64 * 1024);

TEST(Sm70Tiles, FollowTheLimitOfSharedMemory) {
  constexpr int64_t kRows = 8 * 4096, kGroups = 8, kN = 4096;
  for (const auto& [kilobytes, policy] : {std::pair{96, kWide},
                                          {64, kWide},
                                          {63, kWide},
                                          {62, kGeneral},
                                          {48, kGeneral},
                                          {43, kGeneral},
                                          {42, kSmall},
                                          {32, kSmall}}) {
    const DeviceLimits limits = limits_of(70, kilobytes * 1024);
    EXPECT_EQ(choose_m_grouped(kRows, kGroups, kN, limits), policy) << kilobytes;
    EXPECT_EQ(choose_k_grouped(kGroups, 4096, 4096, limits), policy) << kilobytes;
  }
}

TEST(Sm70Tiles, FitWithWhatFindingTheRowsTakes) {
  using namespace cuda::sm70;
  EXPECT_LE(Wide::kSharedBytes + kSharedBytesForGroups, 64 * 1024);
  EXPECT_LE(General::kSharedBytes + kSharedBytesForGroups, 48 * 1024);
  EXPECT_LE(Small::kSharedBytes + kSharedBytesForGroups, 48 * 1024);
}

TEST(Sm70Tiles, AreShorterForGroupsOfFewRows) {
  for (const auto& [rows, policy] : {std::pair{4096, kWide},
                                     {1024, kWide},
                                     {1023, kGeneral},
                                     {64, kGeneral},
                                     {63, kSmall},
                                     {1, kSmall}}) {
    EXPECT_EQ(choose_m_grouped(rows * 128, 128, 4096, kVolta), policy) << rows;
  }
}

TEST(Sm70Tiles, AreSmallerWhereThereWouldBeTooFewForTheDevice) {
  EXPECT_EQ(choose_m_grouped(2048, 1, 128 * 5, kTuring), kWide);     // 8 x 5 tiles, 40 SMs
  EXPECT_EQ(choose_m_grouped(2048, 1, 128 * 4, kTuring), kGeneral);  // 16 x 4
  EXPECT_EQ(choose_m_grouped(1024, 1, 128 * 4, kTuring), kSmall);
  EXPECT_EQ(choose_k_grouped(1, 1280, 1024, kTuring), kWide);
  EXPECT_EQ(choose_k_grouped(1, 1024, 1024, kTuring), kGeneral);
  EXPECT_EQ(choose_k_grouped(1, 512, 512, kTuring), kSmall);
}

TEST(Sm70Tiles, AreSmallerWhereMuchOfThemWouldLieOutside) {
  EXPECT_EQ(choose_k_grouped(64, 256, 128, kTuring), kWide);
  EXPECT_EQ(choose_k_grouped(64, 128, 128, kTuring), kGeneral);
  EXPECT_EQ(choose_k_grouped(64, 72, 72, kTuring), kSmall);
}

TensorView fp16(std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides = {},
                uintptr_t address = 0) {
  return view(reinterpret_cast<const void*>(address), DType::kFloat16, sizes, strides);
}

GmmProblem problem_of(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k) {
  return {.tokens = fp16({num_rows, k}),
          .weights = fp16({num_experts, n, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = fp16({num_rows, n})};
}

GmmWgradProblem wgrad_of(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k) {
  return {.dy = fp16({num_rows, n}),
          .tokens = fp16({num_rows, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = fp16({num_experts, n, k})};
}

// The paths that this build has kernels of for their own device, with that device.
class Sm70Plans : public testing::TestWithParam<std::pair<Path, DeviceLimits>> {
 protected:
  void SetUp() override {
    if (!cuda::sm70::refusal(GetParam().first, problem_of(64, 4, 64, 64), GetParam().second)
             .empty()) {
      GTEST_SKIP() << "this build has no architecture of the path";
    }
  }

  Target target() const {
    Target target = Target::cuda(GetParam().second);
    target.force_path = GetParam().first;
    return target;
  }
  void expect_refused(const GmmProblem& problem, const std::string& because) {
    EXPECT_TRUE(refuses([&] { plan_gmm(problem, target()); }, {because}));
    EXPECT_NE(plan_gmm(problem, Target::cuda(GetParam().second)).path, GetParam().first);
  }
  void expect_refused(const GmmWgradProblem& problem, const std::string& because) {
    EXPECT_TRUE(refuses([&] { plan_gmm_wgrad(problem, target()); }, {because}));
    EXPECT_NE(plan_gmm_wgrad(problem, Target::cuda(GetParam().second)).path, GetParam().first);
  }

 private:
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};
INSTANTIATE_TEST_SUITE_P(, Sm70Plans,
                         testing::Values(std::pair{Path::kSm70, kVolta},
                                         std::pair{Path::kSm75, kTuring}),
                         [](const auto& info) { return to_string(info.param.first); });

TEST_P(Sm70Plans, PrintThePathAndItsTile) {
  const std::string name = to_string(GetParam().first);
  EXPECT_EQ(to_string(plan_gmm(problem_of(16384, 8, 1024, 512), target())),
            "gmm " + name + " tile=256x128x32 blocks<=584 workspace=0B");
  EXPECT_EQ(to_string(plan_gmm_wgrad(wgrad_of(16384, 8, 1024, 512), target())),
            "gmm_wgrad " + name + " tile=256x128x32 blocks<=128 workspace=0B");
}

TEST_P(Sm70Plans, AreTheDevicesChoiceForFloat16) {
  const GmmPlan chosen = plan_gmm(problem_of(64, 4, 64, 64), Target::cuda(GetParam().second));
  EXPECT_EQ(chosen.path, GetParam().first);
  EXPECT_EQ(chosen.because, "");
}

TEST_P(Sm70Plans, HoldForEveryLayoutAndOutputThatTheKernelKnows) {
  GmmProblem problem = problem_of(64, 4, 24, 40);
  problem.weights = transposed(fp16({4, 40, 24}));
  EXPECT_EQ(plan_gmm(problem, target()).path, GetParam().first);
  problem.out.dtype = DType::kFloat32;
  EXPECT_EQ(plan_gmm(problem, target()).path, GetParam().first);
  for (const int64_t n : {1, 7, 129}) {
    EXPECT_EQ(plan_gmm(problem_of(64, 4, n, 64), target()).path, GetParam().first) << n;
  }
  GmmWgradProblem wgrad = wgrad_of(64, 4, 24, 40);
  wgrad.out = transposed(view(nullptr, DType::kFloat32, {4, 40, 24}));
  EXPECT_EQ(plan_gmm_wgrad(wgrad, target()).path, GetParam().first);
}

TEST_P(Sm70Plans, HoldWithoutRowsGroupsOrReduction) {
  for (const GmmProblem& problem :
       {problem_of(0, 4, 64, 64), problem_of(64, 0, 64, 64), problem_of(64, 4, 64, 0)}) {
    EXPECT_EQ(plan_gmm(problem, target()).path, GetParam().first);
  }
  EXPECT_EQ(plan_gmm_wgrad(wgrad_of(0, 4, 64, 64), target()).path, GetParam().first);
  EXPECT_EQ(plan_gmm_wgrad(wgrad_of(64, 0, 64, 64), target()).num_blocks, 0);
}

TEST_P(Sm70Plans, SayWhyTheyFallBack) {
  GmmProblem problem = problem_of(64, 4, 64, 64);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (TensorView* tensor : {&problem.tokens, &problem.weights, &problem.out}) {
      tensor->dtype = dtype;
    }
    expect_refused(problem, "the operands are not float16");
  }
  expect_refused(problem_of(64, 4, 64, 9), "K is not a multiple of 8");
  problem = problem_of(64, 4, 9, 64);
  problem.weights = transposed(fp16({4, 64, 9}));
  expect_refused(problem, "b has no contiguous dimension");
  problem = problem_of(64, 4, 64, 64);
  problem.weights = fp16({4, 64, 64}, {64 * 64 + 4, 64, 1});
  expect_refused(problem, "b has no contiguous dimension");
  problem = problem_of(64, 4, 64, 64);
  problem.tokens = fp16({64, 64}, {}, 8);
  expect_refused(problem, "a's address");
  problem.tokens = fp16({64, 64}, {0, 0});
  expect_refused(problem, "a's rows are not contiguous");
  problem.tokens = fp16({64, 64}, {68, 1});
  expect_refused(problem, "the distance of a's rows");
  problem = problem_of(64, 4, 64, 64);
  problem.out = fp16({64, 64}, {128, 2});
  expect_refused(problem, "out's rows are not contiguous");
}

TEST_P(Sm70Plans, SayWhyWeightGradientsFallBack) {
  expect_refused(wgrad_of(64, 4, 9, 64), "N is not a multiple of 8");
  expect_refused(wgrad_of(64, 4, 64, 9), "K is not a multiple of 8");
  GmmWgradProblem problem = wgrad_of(64, 4, 64, 64);
  problem.dy = fp16({64, 64}, {}, 2);
  expect_refused(problem, "dy's address");
  problem = wgrad_of(64, 4, 64, 64);
  problem.out = fp16({4, 64, 64}, {64 * 128, 128, 2});
  expect_refused(problem, "out has no contiguous dimension");
}

TEST_P(Sm70Plans, AreNotMadeWhereSharedMemoryIsTooSmall) {
  DeviceLimits limits = GetParam().second;
  limits.shared_bytes_per_block = 16 * 1024;
  EXPECT_NE(cuda::sm70::refusal(GetParam().first, problem_of(64, 4, 64, 64), limits)
                .find("too little shared memory"),
            std::string_view::npos);
}

TEST_P(Sm70Plans, HaveAGridThatIsLargeEnoughHoweverTheRowsAreCut) {
  Random random(51);
  for (int round = 0; round < 500; ++round) {
    std::vector<int64_t> sizes(static_cast<size_t>(1 + random.below(20)));
    const int64_t most = 1 + random.below(3000);
    int64_t num_rows = random.below(100);
    for (int64_t& size : sizes) num_rows += size = random.below(most);
    const GmmPlan plan =
        plan_gmm(problem_of(num_rows, static_cast<int64_t>(sizes.size()), 192, 8), target());
    int64_t tiles = 0;
    int64_t left = num_rows;
    for (const int64_t size : sizes) {
      tiles += (size + plan.policy.tile_m - 1) / plan.policy.tile_m;
      left -= size;
    }
    tiles += (left + plan.policy.tile_m - 1) / plan.policy.tile_m;
    EXPECT_GE(plan.num_blocks, tiles * ((192 + plan.policy.tile_n - 1) / plan.policy.tile_n));
  }
}

}  // namespace
}  // namespace gg::test
