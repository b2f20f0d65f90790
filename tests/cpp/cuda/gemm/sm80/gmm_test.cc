// Path sm80 on a GPU of 8.0 or more, each row of its menu: wide, deep and small tiles, these one
// and two to a multiprocessor (by made-up limits, which a bigger GPU holds as well), both layouts
// of the weights, every output. Against double with the CPU's bounds; outputs
// poisoned, buffers guarded.
#include <gtest/gtest.h>

#include <limits>

#include "cuda/gemm/sm80/policy.h"
#include "cuda/support/device.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

using cuda::sm80::Shape;

// What a block is granted: A100's, L40's and Hopper's shared memory, one or two multiprocessors
// that leave several tiles to each block, or all of them, which are more than there are tiles.
struct Grant {
  const char* name;
  int64_t shared_bytes;
  int max_sms;
  Shape gmm, wgrad;     // of outputs that are wide enough
  bool is_all = false;  // as if the GPU had no more multiprocessors
};
constexpr Grant kGrants[] = {
    {"Wide", 166912, 1, {256, 3}, {256, 3}},
    {"OneOfAPair", 101376, 2, {128, 3}, {128, 3}},
    {"Deep", 232448, 0, {128, 5}, {128, 5}},
    {"Pairs", 232448, 1, {128, 3, 2}, {128, 3, 2}, true},
};
void PrintTo(const Grant& grant, std::ostream* out) { *out << grant.name; }

class Sm80 : public OnDeviceWith<Grant> {
 protected:
  void SetUp() override {
    OnDeviceWith<Grant>::SetUp();
    if (IsSkipped()) return;
    target_ = Target::cuda(0);
    if (target_.limits.compute_capability < 80) GTEST_SKIP() << "needs compute capability 8.0";
    if (target_.limits.shared_bytes_per_block < GetParam().shared_bytes) {
      GTEST_SKIP() << "needs more shared memory";
    }
    target_.limits.shared_bytes_per_block = GetParam().shared_bytes;
    target_.max_sms = GetParam().max_sms;
    if (GetParam().is_all) target_.limits.num_sms = GetParam().max_sms;
    target_.force_path = Path::kSm80;
  }

  const Target& target() const { return target_; }

  void expect_right(const GmmCase& gmm) const {
    DeviceTensor tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out);
    run_on_device(GmmProblem{.tokens = tokens.view(),
                             .weights = weights.view(),
                             .groups = groups_of(sizes.view(), gmm.kind.cumulative, false),
                             .out = out.view(),
                             .allow_tf32 = true},
                  target());
    EXPECT_TRUE(is_close(out.download(), gmm.expected()));
  }
  const Tensor& run_wgrad(const WgradCase& wgrad, DeviceTensor& out) const {
    DeviceTensor dy(wgrad.dy), tokens(wgrad.tokens), sizes(wgrad.groups);
    run_on_device(GmmWgradProblem{.dy = dy.view(),
                                  .tokens = tokens.view(),
                                  .groups = groups_of(sizes.view(), wgrad.kind.cumulative, false),
                                  .out = out.view(),
                                  .accumulate = wgrad.accumulate,
                                  .allow_tf32 = true},
                  target());
    return out.download();
  }
  void expect_right(const WgradCase& wgrad) const {
    DeviceTensor out(wgrad.out);
    EXPECT_TRUE(is_close(run_wgrad(wgrad, out), wgrad.expected()));
  }

 private:
  Target target_;
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};
INSTANTIATE_TEST_SUITE_P(, Sm80, testing::ValuesIn(kGrants),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Sm80, TakesTheShapeThatItIsGranted) {
  const GmmCase gmm({"", {130, 2}}, {64, 264}, DType::kBFloat16, DType::kBFloat16);
  const GmmPlan plan = plan_gmm(gmm.problem(), target());
  EXPECT_EQ(plan.policy.tile_n, GetParam().gmm.tile_columns);
  EXPECT_EQ(plan.policy.stages, GetParam().gmm.stages);
  const WgradCase wgrad({"", {130, 2}}, {264, 64}, DType::kBFloat16, DType::kBFloat16);
  const GmmPlan backward = plan_gmm_wgrad(wgrad.problem(), target());
  EXPECT_EQ(backward.policy.tile_n, GetParam().wgrad.tile_columns);
  EXPECT_EQ(backward.policy.stages, GetParam().wgrad.stages);
  if (GetParam().max_sms == 0) return;
  EXPECT_EQ(backward.num_blocks, GetParam().max_sms * GetParam().wgrad.blocks_per_sm);
}

// float32 operands that tf32 holds exactly: sums keep float32's bounds.
void keep_tf32(Tensor& tensor) {
  if (tensor.dtype() != DType::kFloat32) return;
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    tensor.set(i, std::round(tensor.get(i) * 256) / 256);
  }
}

GmmCase forward(const GroupShape& shape, MatrixShape matrix, DType in, DType out, Layout weights,
                int64_t extra_rows = 3) {
  GmmCase gmm(shape, matrix, in, out, extra_rows);
  gmm.weights = laid_out(in, {shape.num_experts(), matrix.n, matrix.k}, weights);
  fill_random(gmm.weights, 2);
  keep_tf32(gmm.tokens);
  keep_tf32(gmm.weights);
  return gmm;
}

WgradCase backward(const GroupShape& shape, MatrixShape matrix, DType in, DType out,
                   bool accumulate, int64_t extra_rows = 3) {
  WgradCase wgrad(shape, matrix, in, out, accumulate, extra_rows);
  keep_tf32(wgrad.dy);
  keep_tf32(wgrad.tokens);
  return wgrad;
}

const GroupShape kRagged{"", {70, 0, 1, 32, 33, 129, 0, 260, 64}};

std::vector<DType> outputs_of(DType in) {
  if (in == DType::kFloat32) return {in};
  return {in, DType::kFloat32};
}

TEST_P(Sm80, MultipliesRaggedGroupsByBothLayoutsOfWeights) {
  for (DType in : kGemmDTypes) {
    for (DType out : outputs_of(in)) {
      for (Layout weights : {Layout::kPlain, Layout::kTransposed}) {
        SCOPED_TRACE(testing::Message() << to_string(in) << " to " << to_string(out) << " layout "
                                        << static_cast<int>(weights));
        expect_right(forward(kRagged, {200, 312}, in, out, weights));
      }
    }
  }
}

TEST_P(Sm80, MultipliesReductionsOfAnyLength) {
  for (int64_t k : {8, 64, 72, 128, 328, 584}) {
    SCOPED_TRACE(k);
    const GroupShape shape{"", {3, 130}};
    const DType bf16 = DType::kBFloat16;
    expect_right(forward(shape, {k, 264}, bf16, bf16, Layout::kPlain));
    expect_right(forward(shape, {k, 264}, bf16, bf16, Layout::kTransposed));
  }
}

TEST_P(Sm80, StoresRowsThatEndWithinAChunk) {
  for (int64_t n : {1, 7, 129, 261}) {
    for (DType out : {DType::kFloat16, DType::kFloat32}) {
      SCOPED_TRACE(n);
      expect_right(forward({"", {3, 0, 140}}, {64, n}, DType::kFloat16, out, Layout::kPlain));
    }
  }
}

TEST_P(Sm80, ReducesEachGroupsRowsAndAddsWhereAsked) {
  for (DType in : kGemmDTypes) {
    for (DType out : outputs_of(in)) {
      for (bool accumulate : {false, true}) {
        SCOPED_TRACE(testing::Message()
                     << to_string(in) << " to " << to_string(out) << (accumulate ? " added" : ""));
        expect_right(backward(kRagged, {264, 136}, in, out, accumulate));
        expect_right(backward({"", {5}}, {8, 8}, in, out, accumulate));
      }
    }
  }
}

// Reductions that end in each step of a slice, and at each row of it.
TEST_P(Sm80, ReducesGroupsOfEveryLength) {
  GroupShape every{"", {}};
  for (int64_t rows = 0; rows <= 66; ++rows) every.sizes.push_back(rows);
  for (DType in : {DType::kBFloat16, DType::kFloat32}) {
    SCOPED_TRACE(to_string(in));
    expect_right(backward(every, {24, 40}, in, in, false));
  }
}

TEST_P(Sm80, ReducesIntoATransposedOutput) {
  for (bool accumulate : {false, true}) {
    WgradCase wgrad({"", {70, 0, 9}}, {136, 264}, DType::kBFloat16, DType::kFloat32, accumulate, 3,
                    Layout::kPlain);
    wgrad.out = laid_out(DType::kFloat32, {3, 264, 136}, Layout::kTransposed);
    if (accumulate) fill_random(wgrad.out, 5);
    wgrad.previous = wgrad.out.values();
    expect_right(wgrad);
  }
}

TEST_P(Sm80, RunsTheSharedTableOfGroupShapesFromSizesAndEnds) {
  for (const GroupShape& shape : group_shapes()) {
    if (shape.num_rows() == 0) continue;
    for (const SizesKind& kind : kSizesKinds) {
      SCOPED_TRACE(testing::Message() << shape.name << (kind.cumulative ? " ends" : ""));
      const DType f16 = DType::kFloat16;
      expect_right(GmmCase(shape, {24, 40}, f16, f16, 66, Layout::kPlain, kind));
      expect_right(WgradCase(shape, {24, 40}, f16, f16, false, 66, Layout::kPlain, kind));
    }
  }
}

TEST_P(Sm80, KeepsNanWithinItsGroup) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  GmmCase gmm =
      forward({"", {3, 64, 5}}, {72, 40}, DType::kBFloat16, DType::kFloat32, Layout::kPlain, 0);
  WgradCase wgrad =
      backward({"", {3, 64, 5}}, {72, 40}, DType::kBFloat16, DType::kFloat32, false, 4);
  for (int64_t row : {3, 66, 72, 75}) {  // both ends of the second group, and past the last
    for (int64_t k = 0; k < 72; ++k) {
      if (row < 72) gmm.tokens.set(row * 72 + k, nan);
      wgrad.tokens.set(row * 72 + k, nan);
    }
  }
  DeviceTensor tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out);
  run_on_device(GmmProblem{.tokens = tokens.view(),
                           .weights = weights.view(),
                           .groups = groups_of(sizes.view(), false, false),
                           .out = out.view()},
                target());
  const std::vector<double> product = out.download().values();
  for (size_t i = 0; i < product.size(); ++i) {
    const size_t row = i / 40;
    ASSERT_EQ(row == 3 || row == 66, product[i] != product[i]) << "row " << row;
  }
  DeviceTensor gradient(wgrad.out);
  const std::vector<double> sums = run_wgrad(wgrad, gradient).values();
  for (size_t i = 0; i < sums.size(); ++i) {
    ASSERT_EQ(i / (40 * 72) == 1, sums[i] != sums[i]) << "element " << i;
  }
}

TEST_P(Sm80, RoundsFloat32ToTheNearestTf32) {
  const double half_step = std::ldexp(1.0, -11), bit = std::ldexp(1.0, -20);
  GmmCase gmm({"", {2}}, {4, 4}, DType::kFloat32, DType::kFloat32);
  for (int64_t i = 0; i < gmm.tokens.num_elements(); ++i) gmm.tokens.set(i, 0);
  for (int64_t i = 0; i < gmm.weights.num_elements(); ++i) gmm.weights.set(i, i % 4 == 0);
  gmm.tokens.set(0, 1 + half_step + bit);
  gmm.tokens.set(4, 1 + half_step - bit);
  DeviceTensor tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out);
  run_on_device(GmmProblem{.tokens = tokens.view(),
                           .weights = weights.view(),
                           .groups = groups_of(sizes.view(), false, false),
                           .out = out.view(),
                           .allow_tf32 = true},
                target());
  EXPECT_EQ(out.download().get(0), 1 + 2 * half_step);
  EXPECT_EQ(out.download().get(4), 1.0);
}

TEST_P(Sm80, RepeatsItsBits) {
  const WgradCase wgrad =
      backward({"", {100, 0, 300}}, {136, 264}, DType::kBFloat16, DType::kBFloat16, false);
  DeviceTensor first(wgrad.out), second(wgrad.out);
  EXPECT_TRUE(same_bits(run_wgrad(wgrad, first), run_wgrad(wgrad, second)));
}

}  // namespace
}  // namespace gg::test
