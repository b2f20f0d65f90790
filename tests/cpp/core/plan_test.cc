// Plans are small values: the same question gives the same plan, it can be
// compared, copied and printed, and it names the memory that run() will ask for.
#include <gtest/gtest.h>

#include "support/gmm_case.h"
#include "support/permute_case.h"
#include "support/run.h"

namespace gg {
namespace {

using test::cpu_target;
using test::GmmCase;
using test::GroupShape;
using test::PermuteCase;
using test::plan_for;
using test::refuses;
using test::ScopedEnvironment;
using test::Tensor;
using test::WgradCase;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// One small problem of each operator.
struct Problems {
  GroupShape shape{"", {2, 0, 1}};
  GmmCase gmm{shape, {4, 5}, DType::kFloat32, DType::kFloat32};
  WgradCase wgrad{shape, {4, 5}, DType::kFloat32, DType::kFloat32};
  PermuteCase permute{{1, 2, 0, 1, 0, 2, 1, 2}, 2, 4, DType::kFloat32};
  Tensor merged{DType::kFloat32, {4, 4}};
  Tensor gradient{DType::kFloat32, {8, 4}};
  Tensor cost{DType::kFloat32, {3, 2}};
  Tensor balanced{DType::kFloat32, {3, 2}};

  UnpermuteProblem unpermute() const {
    return {.input = permute.output.view(),
            .row_id_map = permute.row_id_map.view(),
            .output = merged.view()};
  }
  UnpermuteBwdProblem unpermute_bwd() const {
    return {.output_grad = merged.view(),
            .row_id_map = permute.row_id_map.view(),
            .input_grad = gradient.view()};
  }
  SinkhornProblem sinkhorn() const { return {.cost = cost.view(), .output = balanced.view()}; }

  // check(name, problem) for each of them.
  template <typename Check>
  void for_each(const Check& check) const {
    check("permute", permute.problem());
    check("unpermute", unpermute());
    check("unpermute_bwd", unpermute_bwd());
    check("gmm", gmm.problem());
    check("gmm_wgrad", wgrad.problem());
    check("sinkhorn", sinkhorn());
  }
};

class Plans : public testing::Test {
 protected:
  ScopedEnvironment nothing_forced{"GG_FORCE_PATH", nullptr};
  Problems problems;
};

TEST_F(Plans, OfTheSameProblemAreEqual) {
  problems.for_each([](const char* name, const auto& problem) {
    const auto plan = plan_for(problem, Target::cpu());
    const auto copy = plan;
    EXPECT_EQ(plan, plan_for(problem, Target::cpu())) << name;
    EXPECT_EQ(plan, copy) << name;
  });
}

TEST_F(Plans, OfDifferentPathsDiffer) {
  problems.for_each([](const char* name, const auto& problem) {
    EXPECT_NE(plan_for(problem, cpu_target(Path::kReference)),
              plan_for(problem, cpu_target(Path::kParallel)))
        << name;
  });
}

TEST_F(Plans, RunInParallelOnTheCpuUnlessForced) {
  problems.for_each([](const char* name, const auto& problem) {
    EXPECT_EQ(plan_for(problem, Target::cpu()).path, Path::kParallel) << name;
    EXPECT_EQ(plan_for(problem, cpu_target(Path::kReference)).path, Path::kReference) << name;
  });
}

TEST_F(Plans, PrintTheirOperatorPathAndWorkspace) {
  problems.for_each([](const std::string& name, const auto& problem) {
    const auto plan = plan_for(problem, Target::cpu());
    const std::string text = to_string(plan);
    const std::string shown = name == "unpermute_bwd" ? "unpermute" : name;
    EXPECT_EQ(text.rfind(shown + " parallel", 0), 0u) << text;
    EXPECT_TRUE(contains(text, "workspace=" + std::to_string(plan.workspace_bytes) + "B")) << text;
    EXPECT_FALSE(contains(text, "\n")) << "one line fits a bug report";
  });
}

TEST_F(Plans, OfGmmAndItsWgradCannotBeMistaken) {
  EXPECT_FALSE(plan_gmm(problems.gmm.problem(), Target::cpu()).k_grouped);
  EXPECT_TRUE(plan_gmm_wgrad(problems.wgrad.problem(), Target::cpu()).k_grouped);
}

TEST_F(Plans, NeedNoDataToBeMade) {
  const SinkhornProblem problem{.cost = view(nullptr, DType::kFloat32, {131072, 64}),
                                .output = view(nullptr, DType::kFloat32, {131072, 64})};
  EXPECT_GT(plan_sinkhorn(problem, Target::cpu()).workspace_bytes, 0);
}

TEST_F(Plans, WriteNothing) {
  problems.for_each([](const char*, const auto& problem) { plan_for(problem, Target::cpu()); });
  EXPECT_TRUE(same_bits(problems.merged, problems.merged.like()));
  EXPECT_TRUE(same_bits(problems.gmm.out, problems.gmm.out.like()));
  EXPECT_TRUE(same_bits(problems.wgrad.out, problems.wgrad.out.like()));
  EXPECT_TRUE(same_bits(problems.balanced, problems.balanced.like()));
  EXPECT_TRUE(same_bits(problems.permute.row_id_map, problems.permute.row_id_map.like()));
}

TEST_F(Plans, AreRefusedAWorkspaceThatIsTooSmall) {
  problems.for_each([](const std::string& name, const auto& problem) {
    const auto plan = plan_for(problem, Target::cpu());
    if (plan.workspace_bytes == 0) return;
    const Tensor memory(DType::kFloat8E4M3, {plan.workspace_bytes});
    const int64_t short_by_one = plan.workspace_bytes - 1;
    EXPECT_TRUE(refuses([&] { run(plan, problem, Workspace{memory.view().data, short_by_one}); },
                        {name + ": workspace got " + std::to_string(short_by_one) + " bytes",
                         std::to_string(plan.workspace_bytes)}));
    EXPECT_TRUE(refuses([&] { run(plan, problem, Workspace{nullptr, plan.workspace_bytes}); },
                        {name + ": workspace got "}));
    EXPECT_TRUE(refuses([&] { run(plan, problem, Workspace{}); }, {"workspace got 0 bytes"}));
  });
  EXPECT_TRUE(same_bits(problems.permute.row_id_map, problems.permute.row_id_map.like()))
      << "a refused run writes nothing";
  EXPECT_TRUE(same_bits(problems.balanced, problems.balanced.like()));
}

TEST_F(Plans, WithoutAWorkspaceRunWithoutOne) {
  const GmmPlan plan = plan_gmm(problems.gmm.problem(), Target::cpu());
  ASSERT_EQ(plan.workspace_bytes, 0);
  EXPECT_NO_THROW(run(plan, problems.gmm.problem(), Workspace{}));
}

}  // namespace
}  // namespace gg
