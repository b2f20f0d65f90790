// What sinkhorn plans for each generation of GPUs. Needs no GPU.
#include <gtest/gtest.h>

#include "cuda/support/limits.h"

namespace gg::test {
namespace {

SinkhornProblem sinkhorn_problem(int64_t num_tokens, int64_t num_experts) {
  return {.cost = view(nullptr, DType::kFloat32, {num_tokens, num_experts}),
          .output = view(nullptr, DType::kFloat32, {num_tokens, num_experts})};
}

class SinkhornPlans : public OnEveryGpu {};
INSTANTIATE_TEST_SUITE_P(, SinkhornPlans, testing::ValuesIn(kGpus), gpu_name);

TEST_P(SinkhornPlans, TakeThePortablePath) {
  const SinkhornPlan plan = plan_sinkhorn(sinkhorn_problem(4096, 8), GetParam().target());
  EXPECT_EQ(plan.path, Path::kPortable);
  EXPECT_EQ(plan, plan_sinkhorn(sinkhorn_problem(4096, 8), GetParam().target()));
  EXPECT_EQ(to_string(plan).rfind("sinkhorn portable blocks=", 0), 0u) << to_string(plan);
}

TEST_P(SinkhornPlans, HaveAGridThatRunsAllAtOnce) {
  for (int64_t num_tokens : {0, 1, 100, 4096, 131072}) {
    const SinkhornPlan plan = plan_sinkhorn(sinkhorn_problem(num_tokens, 64), GetParam().target());
    EXPECT_GE(plan.num_blocks, 1);
    EXPECT_LE(plan.num_blocks, 2 * GetParam().limits.num_sms)
        << "a cooperative grid that does not fit on the device cannot be launched";
  }
}

TEST_P(SinkhornPlans, AddColumnsInTheSameOrderOnEveryGpu) {
  for (int64_t num_tokens : {1, 64, 65, 4096, 131072}) {
    const SinkhornProblem problem = sinkhorn_problem(num_tokens, 64);
    EXPECT_EQ(plan_sinkhorn(problem, GetParam().target()).num_chunks,
              plan_sinkhorn(problem, kGpus[0].target()).num_chunks);
  }
}

TEST_P(SinkhornPlans, KeepRowsColumnsAndPartialSumsInTheWorkspace) {
  const SinkhornPlan plan = plan_sinkhorn(sinkhorn_problem(131072, 64), GetParam().target());
  EXPECT_EQ(plan.num_chunks, 256);
  EXPECT_EQ(plan.workspace_bytes, (2 * 131072 + (2 + 256) * 64) * 4);
}

TEST_P(SinkhornPlans, TakeManyTokensManyExpertsAndNone) {
  EXPECT_NO_THROW(plan_sinkhorn(sinkhorn_problem(131072, 1), GetParam().target()));
  EXPECT_NO_THROW(plan_sinkhorn(sinkhorn_problem(3, 4096), GetParam().target()));
  EXPECT_NO_THROW(plan_sinkhorn(sinkhorn_problem(0, 0), GetParam().target()));
}

TEST_P(SinkhornPlans, RefuseMoreTokensThanInt32Counts) {
  EXPECT_TRUE(
      refuses([&] { plan_sinkhorn(sinkhorn_problem(int64_t{1} << 30, 2), GetParam().target()); },
              {"sinkhorn: cost got shape [1073741824, 2]", "2^30"}));
}

TEST(SinkhornRefuses, GpusOlderThanVolta) {
  const ScopedEnvironment nothing_forced("GG_FORCE_PATH", nullptr);
  EXPECT_TRUE(refuses([] { plan_sinkhorn(sinkhorn_problem(64, 8), kTooOldGpu.target()); },
                      {"sinkhorn: got a CUDA device of compute capability 6.0"}));
}

}  // namespace
}  // namespace gg::test
