// What gmm and gmm_wgrad plan for each generation of GPUs. Needs no GPU.
#include <gtest/gtest.h>

#include "base/math.h"
#include "cuda/support/limits.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

TensorView bf16(std::initializer_list<int64_t> sizes) {
  return view(nullptr, DType::kBFloat16, sizes);
}

GmmProblem gmm_problem(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k) {
  return {.tokens = bf16({num_rows, k}),
          .weights = bf16({num_experts, n, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = bf16({num_rows, n})};
}

GmmWgradProblem wgrad_problem(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k) {
  return {.dy = bf16({num_rows, n}),
          .tokens = bf16({num_rows, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = bf16({num_experts, n, k})};
}

// Whatever faster path the GPU has: these tests are about the portable one.
Target portable(Target target) {
  target.force_path = Path::kPortable;
  return target;
}

class GmmPlans : public OnEveryGpu {};
INSTANTIATE_TEST_SUITE_P(, GmmPlans, testing::ValuesIn(kGpus), gpu_name);

TEST_P(GmmPlans, TakeThePortablePathAndItsTile) {
  const GmmPlan plan = plan_gmm(gmm_problem(4096, 8, 1024, 512), portable(GetParam().target()));
  EXPECT_EQ(plan.path, Path::kPortable);
  EXPECT_EQ(plan.policy, (GmmPolicy{64, 64, 16}));
  EXPECT_EQ(to_string(plan), "gmm portable tile=64x64x16 blocks<=1168 workspace=0B");
}

TEST_P(GmmPlans, CountATileForEveryPartOfAWeightGradient) {
  const GmmWgradProblem problem = wgrad_problem(4096, 8, 100, 65);
  const GmmPlan plan = plan_gmm_wgrad(problem, portable(GetParam().target()));
  EXPECT_TRUE(plan.k_grouped);
  EXPECT_EQ(plan.num_blocks, 8 * 2 * 2);
}

TEST_P(GmmPlans, NeedAWorkspaceForHostSizesAndNoneForDeviceSizes) {
  const int64_t sizes[8] = {};
  GmmProblem problem = gmm_problem(64, 8, 32, 32);
  EXPECT_EQ(plan_gmm(problem, portable(GetParam().target())).workspace_bytes, 0);
  problem.groups = GroupSizes::on_host_sizes(sizes, DType::kInt64, 8);
  EXPECT_EQ(plan_gmm(problem, portable(GetParam().target())).workspace_bytes, 64);
}

TEST_P(GmmPlans, DoNotDependOnTheSizesOfTheGroups) {
  const int64_t even[4] = {16, 16, 16, 16};
  const int64_t skewed[4] = {0, 64, 0, 0};
  GmmProblem problem = gmm_problem(64, 4, 32, 32);
  problem.groups = GroupSizes::on_host_sizes(even, DType::kInt64, 4);
  const GmmPlan plan = plan_gmm(problem, portable(GetParam().target()));
  problem.groups = GroupSizes::on_host_sizes(skewed, DType::kInt64, 4);
  EXPECT_EQ(plan_gmm(problem, portable(GetParam().target())), plan);
}

// Tiles that a grid must have for these groups and the rows past the last.
int64_t tiles_needed(const std::vector<int64_t>& sizes, int64_t num_rows) {
  int64_t tiles = 0;
  for (int64_t size : sizes) {
    tiles += base::ceil_div(size, 64);
    num_rows -= size;
  }
  return tiles + base::ceil_div(num_rows, 64);
}

TEST(GmmGrid, IsLargeEnoughHoweverTheRowsAreCut) {
  const ScopedEnvironment nothing_forced("GG_FORCE_PATH", nullptr);
  Random random(50);
  for (int round = 0; round < 2000; ++round) {
    const int64_t num_rows = random.below(700);
    std::vector<int64_t> sizes(static_cast<size_t>(1 + random.below(20)));
    int64_t left = num_rows;
    for (int64_t& size : sizes) left -= size = random.below(std::min<int64_t>(left, 200) + 1);
    const GmmProblem problem = gmm_problem(num_rows, static_cast<int64_t>(sizes.size()), 64, 8);
    EXPECT_GE(plan_gmm(problem, portable(kGpus[4].target())).num_blocks,
              tiles_needed(sizes, num_rows));
  }
}

TEST(GmmGrid, IsLargeEnoughForTheSharedTableOfGroupShapes) {
  const ScopedEnvironment nothing_forced("GG_FORCE_PATH", nullptr);
  for (const GroupShape& shape : group_shapes()) {
    for (int64_t extra_rows : {0, 1, 64, 65}) {
      const int64_t num_rows = shape.num_rows() + extra_rows;
      const GmmProblem problem = gmm_problem(num_rows, shape.num_experts(), 65, 8);
      EXPECT_GE(plan_gmm(problem, portable(kGpus[0].target())).num_blocks,
                2 * tiles_needed(shape.sizes, num_rows))
          << shape.name;
    }
  }
}

TEST(GmmGrid, BeyondWhatALaunchTakesIsRefusedInWords) {
  const GmmProblem problem = gmm_problem(int64_t{1} << 37, 1, 65, 1);
  EXPECT_TRUE(refuses([&] { plan_gmm(problem, portable(kGpus[4].target())); },
                      {"gmm: ", "4294967300 tiles of 64 x 64", "2147483647", "split it"}));
}

TEST(GmmRefuses, GpusOlderThanVolta) {
  const ScopedEnvironment nothing_forced("GG_FORCE_PATH", nullptr);
  EXPECT_TRUE(refuses([] { plan_gmm(gmm_problem(64, 8, 32, 32), kTooOldGpu.target()); },
                      {"gmm: got a CUDA device of compute capability 6.0", "needs 7.0 or more",
                       std::string("built for: ") + built_cuda_architectures()}));
  EXPECT_TRUE(refuses([] { plan_gmm_wgrad(wgrad_problem(64, 8, 32, 32), kTooOldGpu.target()); },
                      {"gmm_wgrad: got a CUDA device of compute capability 6.0"}));
}

}  // namespace
}  // namespace gg::test
