// What gmm, gmm_wgrad and sinkhorn refuse, and in which words: each problem is
// right but for one thing.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "support/gmm_case.h"
#include "support/run.h"

namespace gg {
namespace {

using test::plan_for;
using test::refuses;

const Target kMadeUpGpu = Target::cuda(DeviceLimits{90, 132, 232448});

// Right problems: 6 rows in groups of 1, 2 and 3; K = 4, N = 5.
class GmmRefuses : public testing::Test {
 protected:
  const test::GroupShape shape{"", {1, 2, 3}};
  const test::GmmCase gmm{shape, {4, 5}, DType::kFloat32, DType::kFloat32};
  const test::WgradCase wgrad{shape, {4, 5}, DType::kFloat32, DType::kFloat32};

  template <typename Problem, typename Member>
  static void expect_refused(Problem problem, Member Problem::* member, const Member& wrong,
                             std::initializer_list<std::string> parts,
                             const Target& target = Target::cpu()) {
    problem.*member = wrong;
    EXPECT_TRUE(refuses([&] { plan_for(problem, target); }, parts));
  }

  void expect_sizes_refused(const std::vector<int64_t>& sizes, bool cumulative,
                            std::initializer_list<std::string> parts) const {
    const GroupSizes groups{sizes.data(), DType::kInt64, static_cast<int64_t>(sizes.size()), true,
                            cumulative};
    expect_refused(gmm.problem(), &GmmProblem::groups, groups, parts);
    expect_refused(wgrad.problem(), &GmmWgradProblem::groups, groups, parts);
  }
};

TEST_F(GmmRefuses, NothingThatIsRight) {
  EXPECT_NO_THROW(plan_gmm(gmm.problem(), Target::cpu()));
  EXPECT_NO_THROW(plan_gmm_wgrad(wgrad.problem(), Target::cpu()));
}

TEST_F(GmmRefuses, OperandsOfTheWrongRank) {
  expect_refused(gmm.problem(), &GmmProblem::tokens, view(nullptr, DType::kFloat32, {6}),
                 {"gmm: a got 1 dimensions, shape [6]", "needs 2"});
  expect_refused(gmm.problem(), &GmmProblem::weights, view(nullptr, DType::kFloat32, {5, 4}),
                 {"gmm: b got 2 dimensions", "needs 3"});
  expect_refused(wgrad.problem(), &GmmWgradProblem::dy, view(nullptr, DType::kFloat32, {6, 5, 1}),
                 {"gmm_wgrad: dy got 3 dimensions", "needs 2"});
}

TEST_F(GmmRefuses, OperandsThatAreNoFloats) {
  for (DType dtype : {DType::kInt32, DType::kInt64, DType::kFloat8E4M3, DType::kFloat8E5M2}) {
    expect_refused(gmm.problem(), &GmmProblem::tokens, view(nullptr, dtype, {6, 4}),
                   {std::string("gmm: a got dtype ") + to_string(dtype), "bfloat16, float16"});
  }
}

TEST_F(GmmRefuses, Float64OnAGpu) {
  const test::GmmCase doubles(shape, {4, 5}, DType::kFloat64, DType::kFloat64);
  EXPECT_NO_THROW(plan_gmm(doubles.problem(), Target::cpu()));
  EXPECT_TRUE(refuses([&] { plan_gmm(doubles.problem(), kMadeUpGpu); },
                      {"gmm: a got dtype float64", "float64 runs on the CPU only"}));
}

TEST_F(GmmRefuses, OperandsOfTwoDtypes) {
  expect_refused(gmm.problem(), &GmmProblem::weights, view(nullptr, DType::kBFloat16, {3, 5, 4}),
                 {"gmm: b got dtype bfloat16", "a's dtype, float32", "cast"});
  expect_refused(wgrad.problem(), &GmmWgradProblem::dy, view(nullptr, DType::kFloat16, {6, 5}),
                 {"gmm_wgrad: dy got dtype float16", "a's dtype, float32"});
}

TEST_F(GmmRefuses, ReductionDimensionsThatDiffer) {
  expect_refused(gmm.problem(), &GmmProblem::weights, view(nullptr, DType::kFloat32, {3, 4, 5}),
                 {"gmm: b got a reduction dimension of 5", "needs a's, 4", "check trans_b"});
  expect_refused(wgrad.problem(), &GmmWgradProblem::dy, view(nullptr, DType::kFloat32, {7, 5}),
                 {"gmm_wgrad: dy got 7 rows", "needs a's, 6"});
}

TEST_F(GmmRefuses, AnotherNumberOfGroupsThanMatrices) {
  expect_refused(gmm.problem(), &GmmProblem::weights, view(nullptr, DType::kFloat32, {2, 5, 4}),
                 {"gmm: batch_sizes got 3 groups", "2"});
}

TEST_F(GmmRefuses, AnOutOfTheWrongShape) {
  expect_refused(gmm.problem(), &GmmProblem::out, view(nullptr, DType::kFloat32, {6, 4}),
                 {"gmm: out got shape [6, 4]", "needs [6, 5]"});
  expect_refused(wgrad.problem(), &GmmWgradProblem::out, view(nullptr, DType::kFloat32, {3, 4, 5}),
                 {"gmm_wgrad: out got shape [3, 4, 5]", "needs [3, 5, 4]"});
}

TEST_F(GmmRefuses, AnOutThatIsNeitherTheOperandsDtypeNorFloat32) {
  expect_refused(gmm.problem(), &GmmProblem::out, view(nullptr, DType::kFloat16, {6, 5}),
                 {"gmm: out got dtype float16", "float32"});
  expect_refused(wgrad.problem(), &GmmWgradProblem::out, view(nullptr, DType::kFloat64, {3, 5, 4}),
                 {"gmm_wgrad: out got dtype float64", "float32"});
}

TEST_F(GmmRefuses, AnOutWhoseElementsOverlap) {
  float row[5];
  expect_refused(gmm.problem(), &GmmProblem::out, view(row, DType::kFloat32, {6, 5}, {0, 1}),
                 {"gmm: out got stride 0 in dimension 0", "do not overlap"});
}

TEST_F(GmmRefuses, AnOutInTheMemoryOfAnOperand) {
  const test::GmmCase square(shape, {4, 4}, DType::kFloat32, DType::kFloat32);
  expect_refused(square.problem(), &GmmProblem::out, square.tokens.view(),
                 {"gmm: out got memory that a lies in", "copy"});
  expect_refused(wgrad.problem(), &GmmWgradProblem::out,
                 view(wgrad.dy.view().data, DType::kFloat32, {3, 5, 4}),
                 {"gmm_wgrad: out got memory that dy lies in"});
}

TEST_F(GmmRefuses, NegativeSizes) {
  expect_sizes_refused({1, -2, 3}, false, {"batch_sizes got -2 at index 1", "0 or more"});
}

TEST_F(GmmRefuses, SizesForMoreRowsThanThereAre) {
  expect_sizes_refused({1, 2, 4}, false, {"batch_sizes got sizes for 7 rows", "at most 6"});
}

TEST_F(GmmRefuses, SizesWhoseSumOverflows) {
  const int64_t huge = std::numeric_limits<int64_t>::max();
  expect_sizes_refused({huge, 1, 0}, false, {"batch_sizes got sizes whose sum overflows", "6"});
  expect_sizes_refused({huge, huge, 2}, false, {"overflows int64 at index 1"});
}

TEST_F(GmmRefuses, EndsThatFall) {
  expect_sizes_refused({3, 2, 6}, true, {"offs got 2 at index 1 after 3", "never fall"});
  expect_sizes_refused({-1, 2, 6}, true, {"offs got -1 at index 0"});
}

TEST_F(GmmRefuses, EndsBeyondTheRows) {
  expect_sizes_refused({1, 3, 7}, true, {"offs got sizes for 7 rows", "at most 6"});
}

TEST_F(GmmRefuses, SizesThatAreNoIntegers) {
  const float sizes[] = {1, 2, 3};
  expect_refused(gmm.problem(), &GmmProblem::groups,
                 GroupSizes::on_host_sizes(sizes, DType::kFloat32, 3),
                 {"gmm: batch_sizes got dtype float32", "int32 or int64"});
}

TEST_F(GmmRefuses, SizesThatLeaveTheOperandsOfTheCpuWhereverTheySayTheyLie) {
  const int64_t sizes[] = {1, 2, 1000};
  const GroupSizes groups = GroupSizes::on_device_sizes(sizes, DType::kInt64, 3);
  expect_refused(gmm.problem(), &GmmProblem::groups, groups, {"gmm: batch_sizes got "});
  expect_refused(wgrad.problem(), &GmmWgradProblem::groups, groups,
                 {"gmm_wgrad: batch_sizes got "});
}

// 3 tokens, 2 experts.
SinkhornProblem right_sinkhorn() {
  return {.cost = view(nullptr, DType::kFloat32, {3, 2}),
          .output = view(nullptr, DType::kFloat32, {3, 2})};
}

TEST(SinkhornRefuses, TensorsOfTheWrongShapeOrDtype) {
  SinkhornProblem problem = right_sinkhorn();
  EXPECT_NO_THROW(plan_sinkhorn(problem, Target::cpu()));
  problem.output = view(nullptr, DType::kFloat32, {2, 3});
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, Target::cpu()); },
                      {"sinkhorn: output got shape [2, 3]", "needs [3, 2]"}));
  problem.output = view(nullptr, DType::kFloat16, {3, 2});
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, Target::cpu()); },
                      {"sinkhorn: output got dtype float16", "needs float32"}));
  problem.cost = view(nullptr, DType::kInt64, {3, 2});
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, Target::cpu()); },
                      {"sinkhorn: cost got dtype int64", "float32"}));
  problem.cost = view(nullptr, DType::kFloat32, {3, 2}, {1, 3});
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, Target::cpu()); },
                      {"sinkhorn: cost got ", "contiguous"}));
}

TEST(SinkhornRefuses, Float64OnAGpu) {
  const SinkhornProblem problem{.cost = view(nullptr, DType::kFloat64, {3, 2}),
                                .output = view(nullptr, DType::kFloat64, {3, 2})};
  EXPECT_NO_THROW(plan_sinkhorn(problem, Target::cpu()));
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, kMadeUpGpu); },
                      {"sinkhorn: cost got dtype float64", "CPU only"}));
}

TEST(SinkhornRefuses, SettingsThatMeanNothing) {
  SinkhornProblem problem = right_sinkhorn();
  problem.max_iterations = 0;
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, Target::cpu()); },
                      {"sinkhorn: max_iterations got 0", "1 or more"}));
  problem.max_iterations = 1;
  problem.tolerance = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, Target::cpu()); }, {"sinkhorn: tol got NaN"}));
}

}  // namespace
}  // namespace gg
