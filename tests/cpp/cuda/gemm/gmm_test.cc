// gmm and gmm_wgrad on a GPU: against double with the CPU's bounds, sizes from
// the host and from the device, nonsense sizes, graphs.
#include <gtest/gtest.h>

#include <limits>
#include <memory>

#include "cuda/support/device.h"
#include "support/gmm_case.h"

namespace gg::test {
namespace {

enum class SizesOn { kHost, kDevice };

// The operands of a case on the device.
struct DeviceGmm {
  explicit DeviceGmm(const GmmCase& gmm)
      : tokens(gmm.tokens), weights(gmm.weights), sizes(gmm.groups), out(gmm.out) {}

  GmmProblem problem(const GmmCase& gmm, SizesOn place = SizesOn::kDevice) const {
    const bool on_host = place == SizesOn::kHost;
    const TensorView values = on_host ? gmm.groups.view() : sizes.view();
    return {.tokens = tokens.view(),
            .weights = weights.view(),
            .groups = groups_of(values, gmm.kind.cumulative, on_host),
            .out = out.view()};
  }

  DeviceTensor tokens, weights, sizes, out;
};

// All multiprocessors, and all but one: where others may want one, a path may choose other tiles.
void expect_right(const GmmCase& gmm, SizesOn place = SizesOn::kDevice) {
  const Expected expected = gmm.expected();
  Target target = Target::cuda(0);
  for (const int max_sms : {0, target.limits.num_sms - 1}) {
    target.max_sms = max_sms;
    DeviceGmm device(gmm);
    run_on_device(device.problem(gmm, place), target);
    EXPECT_TRUE(is_close(device.out.download(), expected)) << "at most " << max_sms;
  }
}

void expect_right(const WgradCase& wgrad, SizesOn place = SizesOn::kDevice) {
  DeviceTensor dy(wgrad.dy), tokens(wgrad.tokens), sizes(wgrad.groups), out(wgrad.out);
  const bool on_host = place == SizesOn::kHost;
  const TensorView values = on_host ? wgrad.groups.view() : sizes.view();
  run_on_device(GmmWgradProblem{.dy = dy.view(),
                                .tokens = tokens.view(),
                                .groups = groups_of(values, wgrad.kind.cumulative, on_host),
                                .out = out.view(),
                                .accumulate = wgrad.accumulate});
  EXPECT_TRUE(is_close(out.download(), wgrad.expected()));
}

class CudaGmm : public OnDeviceWith<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, CudaGmm, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(CudaGmm, MultipliesEachGroupsRowsByItsMatrix) {
  for (DType dtype : kGemmDTypes) {
    for (const MatrixShape& matrix : kMatrixShapes) {
      SCOPED_TRACE(testing::Message()
                   << to_string(dtype) << " K=" << matrix.k << " N=" << matrix.n);
      expect_right(GmmCase(GetParam(), matrix, dtype, dtype, /*extra_rows=*/3));
      expect_right(WgradCase(GetParam(), matrix, dtype, dtype, false, /*extra_rows=*/3));
    }
  }
}

TEST_P(CudaGmm, WritesAndAccumulatesFloat32) {
  for (DType dtype : kGemmDTypes) {
    for (bool accumulate : {false, true}) {
      SCOPED_TRACE(to_string(dtype));
      expect_right(GmmCase(GetParam(), {16, 24}, dtype, DType::kFloat32));
      expect_right(WgradCase(GetParam(), {16, 24}, dtype, DType::kFloat32, accumulate));
      expect_right(WgradCase(GetParam(), {16, 24}, dtype, dtype, accumulate));
    }
  }
}

TEST_P(CudaGmm, TakesSizesAndEndsFromHostAndDevice) {
  for (const SizesKind& kind : kSizesKinds) {
    for (SizesOn place : {SizesOn::kHost, SizesOn::kDevice}) {
      SCOPED_TRACE(testing::Message() << to_string(kind.dtype) << (kind.cumulative ? " ends" : "")
                                      << (place == SizesOn::kHost ? " host" : " device"));
      const DType f32 = DType::kFloat32;
      expect_right(GmmCase(GetParam(), {7, 5}, f32, f32, 66, Layout::kPlain, kind), place);
      expect_right(WgradCase(GetParam(), {7, 5}, f32, f32, true, 66, Layout::kPlain, kind), place);
    }
  }
}

TEST_P(CudaGmm, TakesAnyStridesAndAlignment) {
  for (Layout layout : kLayouts) {
    SCOPED_TRACE(static_cast<int>(layout));
    const DType f16 = DType::kFloat16;
    expect_right(GmmCase(GetParam(), {63, 65}, f16, f16, 2, layout));
    expect_right(WgradCase(GetParam(), {63, 65}, f16, DType::kFloat32, true, 2, layout));
  }
}

class CudaGmmSizes : public OnDevice {};

TEST_F(CudaGmmSizes, OfManyHundredsOfExpertsArriveFromTheHost) {
  GroupShape shape{"", std::vector<int64_t>(1203, 1)};
  for (size_t e = 0; e < shape.sizes.size(); e += 3) shape.sizes[e] = 0;
  expect_right(GmmCase(shape, {8, 8}, DType::kFloat32, DType::kFloat32, 5), SizesOn::kHost);
  expect_right(WgradCase(shape, {8, 8}, DType::kFloat32, DType::kFloat32), SizesOn::kHost);
}

TEST_F(CudaGmmSizes, ThatAreNonsenseOnTheDeviceStillWriteEveryRowAndNothingElse) {
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const std::vector<int64_t> nonsense[] = {
      {-1, 5, -7}, {1000, 1000, 1000}, {huge, huge, huge}, {-huge, 3, huge}, {0, 0, -1}};
  for (const std::vector<int64_t>& sizes : nonsense) {
    for (bool cumulative : {false, true}) {
      GmmCase gmm({"", {3, 4, 5}}, {7, 70}, DType::kFloat32, DType::kFloat32);
      gmm.kind.cumulative = cumulative;
      gmm.groups.fill_integers(sizes);
      DeviceGmm device(gmm);
      run_on_device(device.problem(gmm));
      for (double value : device.out.download().values()) {
        ASSERT_FALSE(value != value) << "the poison must be gone from every row";
      }
    }
  }
}

TEST_F(CudaGmmSizes, AreReadWhenACapturedGraphRuns) {
  GmmCase gmm({"", {3, 4, 5}}, {7, 5}, DType::kFloat32, DType::kFloat32, 4);
  DeviceGmm device(gmm);
  const GmmProblem problem = device.problem(gmm);
  const GmmPlan plan = plan_gmm(problem, Target::cuda(0));
  ASSERT_EQ(plan.workspace_bytes, 0);
  const SideStream stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  expect_success(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal));
  run(plan, problem, Workspace{}, stream.get());
  expect_success(cudaStreamEndCapture(stream.get(), &graph));
  expect_success(cudaGraphInstantiate(&executable, graph, 0));
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{3, 4, 5}, {0, 12, 0}, {0, 0, 0}, {16, 0, 0}}) {
    gmm.sizes = sizes;
    gmm.groups.fill_integers(sizes);
    device.sizes.upload(gmm.groups);
    device.out.upload(gmm.out);
    expect_success(cudaGraphLaunch(executable, stream.get()));
    EXPECT_TRUE(is_close(device.out.download(), gmm.expected()));
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

class CudaGmmGroups : public OnDevice {};

TEST_F(CudaGmmGroups, KeepTheirBitsWhenAnotherHoldsNan) {
  GmmCase gmm({"", {3, 64, 5}}, {7, 2}, DType::kBFloat16, DType::kFloat32);
  const Expected expected = gmm.expected();
  for (int64_t i = 3 * 7; i < 67 * 7; ++i) {
    gmm.tokens.set(i, std::numeric_limits<double>::quiet_NaN());
  }
  DeviceGmm device(gmm);
  run_on_device(device.problem(gmm));
  const Tensor& out = device.out.download();
  for (int64_t i = 0; i < out.num_elements(); ++i) {
    const bool is_bad_group = i / 2 >= 3 && i / 2 < 67;
    ASSERT_EQ(is_bad_group, out.get(i) != out.get(i)) << "element " << i;
  }
}

TEST_F(CudaGmmGroups, RepeatTheirBits) {
  const GmmCase gmm({"", {100, 0, 300}}, {130, 67}, DType::kBFloat16, DType::kBFloat16);
  DeviceGmm first(gmm);
  DeviceGmm second(gmm);
  run_on_device(first.problem(gmm));
  run_on_device(second.problem(gmm));
  EXPECT_TRUE(same_bits(first.out.download(), second.out.download()));
}

}  // namespace
}  // namespace gg::test
