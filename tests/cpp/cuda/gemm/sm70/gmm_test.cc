// Paths sm70 and sm75 on a GPU, forced: every tile of the menu, odd shapes, both layouts of
// weights and of out, against double with the CPU's bounds. On newer devices the driver
// compiles their PTX.
#include <gtest/gtest.h>

#include <limits>

#include "base/math.h"
#include "cuda/door.h"
#include "cuda/support/device.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

constexpr DType kHalf = DType::kFloat16;
constexpr DType kSingle = DType::kFloat32;
constexpr MatrixShape kShapes[] = {{8, 8}, {40, 24}, {32, 64}, {72, 264}, {328, 136}};

struct Variant {
  Path path;
  GmmPolicy policy;
};

std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const Path path : {Path::kSm70, Path::kSm75}) {
    for (const GmmPolicy& policy :
         {GmmPolicy{256, 128, 32}, GmmPolicy{128, 128, 32}, GmmPolicy{64, 64, 32}}) {
      all.push_back({path, policy});
    }
  }
  return all;
}

void PrintTo(const Variant& variant, std::ostream* out) {
  *out << to_string(variant.path) << "_" << variant.policy.tile_m;
}

class CudaSm70 : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    if (cuda::num_devices() == 0) GTEST_SKIP() << "no CUDA device";
    const GmmCase tiny({"", {8}}, {8, 8}, kHalf, kHalf);
    const DeviceLimits limits = Target::cuda(0).limits;
    const std::string_view why = cuda::gmm_refusal(GetParam().path, tiny.problem(), limits);
    if (!why.empty()) GTEST_SKIP() << why;
    if (GetParam().policy.tile_m == 256 && limits.shared_bytes_per_block < 64 * 1024) {
      GTEST_SKIP() << "the device has too little shared memory for the tile";
    }
  }

  Target target() const {
    Target target = Target::cuda(0);
    target.force_path = GetParam().path;
    return target;
  }

  // The plan with the tile under test, whatever the shape would choose, and its grid.
  template <typename Problem>
  GmmPlan plan(const Problem& problem, int64_t out_rows, int64_t out_columns) const {
    GmmPlan plan = plan_for(problem, target());
    plan.policy = GetParam().policy;
    const int64_t column_tiles = base::ceil_div(out_columns, plan.policy.tile_n);
    const int64_t row_tiles = base::ceil_div(out_rows, plan.policy.tile_m);
    const int64_t groups = problem.groups.num_groups;
    plan.num_blocks = (plan.k_grouped ? groups * row_tiles : groups + row_tiles + 1) * column_tiles;
    return plan;
  }

  template <typename Problem>
  void run(const GmmPlan& plan, const Problem& problem) const {
    DeviceTensor workspace(Tensor(DType::kFloat8E4M3, {plan.workspace_bytes}));
    gg::run(plan, problem, Workspace{workspace.view().data, plan.workspace_bytes}, Stream{});
    workspace.download();
  }

  Tensor output_of(const GmmCase& gmm) const {
    DeviceTensor tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out);
    const GmmProblem problem{.tokens = tokens.view(),
                             .weights = weights.view(),
                             .groups = groups_of(sizes.view(), gmm.kind.cumulative, false),
                             .out = out.view()};
    run(plan(problem, gmm.out.size(0), gmm.out.size(1)), problem);
    Tensor result = gmm.out.like();
    result.fill(out.download().values());
    return result;
  }

  Tensor output_of(const WgradCase& wgrad) const {
    DeviceTensor dy(wgrad.dy), tokens(wgrad.tokens), sizes(wgrad.groups), out(wgrad.out);
    const GmmWgradProblem problem{.dy = dy.view(),
                                  .tokens = tokens.view(),
                                  .groups = groups_of(sizes.view(), wgrad.kind.cumulative, false),
                                  .out = out.view(),
                                  .accumulate = wgrad.accumulate};
    const bool is_plain = wgrad.out.view().stride(2) == 1;
    run(plan(problem, wgrad.out.size(is_plain ? 1 : 2), wgrad.out.size(is_plain ? 2 : 1)), problem);
    Tensor result = wgrad.out.like();
    result.fill(out.download().values());
    return result;
  }

  template <typename Case>
  void expect_right(const Case& product) const {
    EXPECT_TRUE(is_close(output_of(product), product.expected()));
  }

 private:
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};
INSTANTIATE_TEST_SUITE_P(, CudaSm70, testing::ValuesIn(variants()), [](const auto& info) {
  return std::string(to_string(info.param.path)) + "_" + std::to_string(info.param.policy.tile_m);
});

TEST_P(CudaSm70, MultipliesEachGroupsRowsByItsMatrix) {
  for (const GroupShape& shape : group_shapes()) {
    for (const MatrixShape& matrix : kShapes) {
      SCOPED_TRACE(testing::Message() << shape.name << " K=" << matrix.k << " N=" << matrix.n);
      GmmCase gmm(shape, matrix, kHalf, kHalf, /*extra_rows=*/3);
      expect_right(gmm);
      gmm.weights = laid_out(kHalf, {shape.num_experts(), matrix.n, matrix.k}, Layout::kTransposed);
      fill_random(gmm.weights, 6);
      expect_right(gmm);
    }
  }
}

TEST_P(CudaSm70, SumsOverEachGroupsRows) {
  for (const GroupShape& shape : group_shapes()) {
    for (const MatrixShape& matrix : kShapes) {
      for (const DType out : {kHalf, kSingle}) {
        for (const bool accumulate : {false, true}) {
          SCOPED_TRACE(testing::Message() << shape.name << " K=" << matrix.k << " N=" << matrix.n
                                          << " " << to_string(out) << (accumulate ? " +=" : ""));
          expect_right(WgradCase(shape, matrix, kHalf, out, accumulate, /*extra_rows=*/3));
        }
      }
    }
  }
}

TEST_P(CudaSm70, WritesTransposedWeightGradients) {
  for (const bool accumulate : {false, true}) {
    WgradCase wgrad({"", {70, 0, 33}}, {40, 264}, kHalf, kSingle, accumulate, 3);
    const std::vector<double> before = wgrad.out.values();
    wgrad.out = laid_out(kSingle, {3, 264, 40}, Layout::kTransposed);
    if (accumulate) wgrad.out.fill(before);
    expect_right(wgrad);
  }
}

TEST_P(CudaSm70, WritesRowsOfAnyLengthAndAlignment) {
  for (const int64_t n : {1, 7, 12, 65, 129}) {
    for (const DType out : {kHalf, kSingle}) {
      SCOPED_TRACE(testing::Message() << "N=" << n << " " << to_string(out));
      GmmCase gmm({"", {5, 0, 130, 300}}, {64, n}, kHalf, out, 2);
      expect_right(gmm);
      gmm.out = Tensor(out, {gmm.out.size(0), n}, {n + 3, 1}, /*offset=*/1);
      expect_right(gmm);
    }
  }
}

TEST_P(CudaSm70, ReadsPaddedRows) {
  GmmCase gmm({"", {5, 0, 130}}, {24, 72}, kHalf, kHalf, 2);
  gmm.tokens = Tensor(kHalf, {137, 24}, {40, 1});
  gmm.weights = Tensor(kHalf, {3, 72, 24}, {72 * 32 + 8, 32, 1});
  fill_random(gmm.tokens, 7);
  fill_random(gmm.weights, 8);
  expect_right(gmm);
}

TEST_P(CudaSm70, SumsLongReductionsOfLargeGroups) {
  expect_right(GmmCase({"", {1, 600}}, {1032, 72}, kHalf, kSingle));
  expect_right(WgradCase({"", {1100, 0, 2017}}, {72, 40}, kHalf, kSingle));
}

TEST_P(CudaSm70, KeepsNanOfOneGroupThere) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const GroupShape shape{"", {3, 70, 5}};
  const auto is_bad = [](int64_t row) { return row >= 3 && row < 73; };
  GmmCase gmm(shape, {24, 16}, kHalf, kHalf, 4);
  WgradCase wgrad(shape, {24, 16}, kHalf, kSingle, false, 4);
  const Tensor clean = output_of(gmm);
  const Tensor clean_wgrad = output_of(wgrad);
  for (int64_t row = 0; row < 82; ++row) {
    if (!is_bad(row) && row < 78) continue;  // the rows past the last group, too
    for (int64_t k = 0; k < 24; ++k) {
      gmm.tokens.set(row * 24 + k, nan);
      wgrad.tokens.set(row * 24 + k, nan);
    }
  }
  const Tensor out = output_of(gmm);
  for (int64_t i = 0; i < out.num_elements(); ++i) {
    if (is_bad(i / 16)) {
      ASSERT_NE(out.get(i), out.get(i)) << "element " << i;
    } else {
      ASSERT_EQ(out.get(i), clean.get(i)) << "element " << i;
    }
  }
  const Tensor dw = output_of(wgrad);
  for (int64_t i = 0; i < dw.num_elements(); ++i) {
    const bool is_bad_group = i / (16 * 24) == 1;
    if (is_bad_group) {
      ASSERT_NE(dw.get(i), dw.get(i)) << "element " << i;
    } else {
      ASSERT_EQ(dw.get(i), clean_wgrad.get(i)) << "element " << i;
    }
  }
}

TEST_P(CudaSm70, WritesEveryRowAndNothingElseForNonsenseSizes) {
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const std::vector<int64_t> nonsense[] = {
      {-1, 5, -7}, {1000, 1000, 1000}, {huge, huge, huge}, {-huge, 3, huge}, {0, 0, -1}};
  for (const std::vector<int64_t>& sizes : nonsense) {
    for (const bool cumulative : {false, true}) {
      GmmCase gmm({"", {30, 40, 5}}, {8, 72}, kHalf, kHalf);
      WgradCase wgrad({"", {30, 40, 5}}, {8, 72}, kHalf, kHalf);
      gmm.kind.cumulative = wgrad.kind.cumulative = cumulative;
      gmm.groups.fill_integers(sizes);
      wgrad.groups.fill_integers(sizes);
      for (const Tensor& out : {output_of(gmm), output_of(wgrad)}) {
        for (const double value : out.values()) {
          ASSERT_EQ(value, value) << "the poison must be gone from every element";
        }
      }
    }
  }
}

TEST_P(CudaSm70, GivesTheSameBitsWhateverTheTile) {
  const GmmCase gmm({"", {100, 0, 300}}, {136, 72}, kHalf, kSingle);
  const Tensor ours = output_of(gmm);
  DeviceTensor tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out);
  const GmmProblem problem{.tokens = tokens.view(),
                           .weights = weights.view(),
                           .groups = groups_of(sizes.view(), false, false),
                           .out = out.view()};
  run(plan_gmm(problem, target()), problem);
  EXPECT_TRUE(same_bits(out.download(), ours));
}

}  // namespace
}  // namespace gg::test
