// Which problems take path simt, and its tiles. Needs no GPU.
#include <gtest/gtest.h>

#include "base/math.h"
#include "cuda/gemm/layouts.h"
#include "cuda/gemm/simt/policy.h"
#include "cuda/support/limits.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

using cuda::simt::Inner;
using cuda::simt::LargeTile;
using cuda::simt::SmallTile;
using cuda::simt::variant_of;

TensorView fp32(std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides = {},
                uintptr_t address = 0) {
  return view(reinterpret_cast<const void*>(address), DType::kFloat32, sizes, strides);
}

GmmProblem problem_of(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k) {
  return {.tokens = fp32({num_rows, k}),
          .weights = fp32({num_experts, n, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = fp32({num_rows, n})};
}

GmmWgradProblem wgrad_of(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k) {
  return {.dy = fp32({num_rows, n}),
          .tokens = fp32({num_rows, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = fp32({num_experts, n, k})};
}

class SimtPlans : public OnEveryGpu {};
INSTANTIATE_TEST_SUITE_P(, SimtPlans, testing::ValuesIn(kGpus), gpu_name);

TEST_P(SimtPlans, AreWhatFloat32GetsUnlessItMayBeRounded) {
  const GmmPlan plan = plan_gmm(problem_of(4096, 8, 1024, 512), GetParam().target());
  EXPECT_EQ(plan.path, Path::kSimt);
  EXPECT_EQ(plan_gmm_wgrad(wgrad_of(4096, 8, 1024, 512), GetParam().target()).path, Path::kSimt);
}

TEST_P(SimtPlans, TakeLargeTilesWhereTheyFillTheDevice) {
  EXPECT_EQ(to_string(plan_gmm(problem_of(8192, 8, 1024, 512), Target::cuda(kGpus[4].limits)))
                .substr(0, 26),
            "gmm simt tile=128x256x16 b");
  const GmmPlan few = plan_gmm(problem_of(1000, 8, 128, 512), GetParam().target());
  EXPECT_EQ(few.policy.tile_m, SmallTile::kRows);
  const GmmPlan small_groups = plan_gmm(problem_of(64 * 256, 256, 4096, 512), GetParam().target());
  EXPECT_EQ(small_groups.policy.tile_m, SmallTile::kRows);
}

TEST_P(SimtPlans, LeaveWhatHasNoContiguousRowsToThePortablePath) {
  GmmProblem problem = problem_of(64, 4, 64, 64);
  problem.tokens = fp32({64, 64}, {128, 2});
  const GmmPlan plan = plan_gmm(problem, GetParam().target());
  EXPECT_EQ(plan.path, Path::kPortable);
  EXPECT_FALSE(plan.because.empty());
}

TEST(SimtGrid, IsLargeEnoughHoweverTheRowsAreCut) {
  const ScopedEnvironment nothing_forced("GG_FORCE_PATH", nullptr);
  Random random(51);
  for (int round = 0; round < 2000; ++round) {
    const int64_t num_rows = 1 + random.below(3000);
    std::vector<int64_t> sizes(static_cast<size_t>(1 + random.below(20)));
    int64_t left = num_rows;
    for (int64_t& size : sizes) left -= size = random.below(std::min<int64_t>(left, 900) + 1);
    const auto num_groups = static_cast<int64_t>(sizes.size());
    const GmmPlan plan = plan_gmm(problem_of(num_rows, num_groups, 600, 8), kGpus[4].target());
    int64_t row_tiles = base::ceil_div(left, plan.policy.tile_m);
    for (int64_t size : sizes) row_tiles += base::ceil_div(size, plan.policy.tile_m);
    EXPECT_GE(plan.num_blocks, row_tiles * base::ceil_div(600, plan.policy.tile_n));
  }
}

TEST(SimtVariants, SayHowOperandsLie) {
  GmmProblem problem = problem_of(64, 4, 64, 32);
  const GmmPlan plan{.policy = {LargeTile::kRows, LargeTile::kColumns, LargeTile::kSlice}};
  EXPECT_EQ(variant_of(problem, plan),
            (cuda::simt::Variant{DType::kFloat32, Inner::kReduction, true, true}));
  problem.weights = transposed(fp32({4, 32, 64}));
  EXPECT_EQ(variant_of(problem, plan).weights, Inner::kOuter);
  problem.weights = fp32({4, 64, 32}, {}, /*address=*/4);
  EXPECT_FALSE(variant_of(problem, plan).has_vectors);
  EXPECT_FALSE(variant_of(problem_of(64, 4, 64, 30), plan).has_vectors);
  EXPECT_TRUE(variant_of(problem_of(64, 4, 63, 32), plan).has_vectors);  // N is no inner dimension
}

TEST(SimtVariants, SwapTheOperandsOfATransposedResult) {
  GmmWgradProblem problem = wgrad_of(64, 4, 8, 16);
  EXPECT_EQ(cuda::roles_of(problem).left.size(1), 8);
  problem.out = transposed(fp32({4, 16, 8}));
  const cuda::WgradRoles roles = cuda::roles_of(problem);
  EXPECT_EQ(roles.left.size(1), 16);
  EXPECT_EQ(roles.row_dim, 2);
  EXPECT_EQ(roles.column_dim, 1);
}

}  // namespace
}  // namespace gg::test
