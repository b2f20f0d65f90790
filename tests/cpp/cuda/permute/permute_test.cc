// permute, unpermute and its backward on a GPU: the same bits as on the CPU.
#include <gtest/gtest.h>

#include <limits>

#include "cuda/support/permute.h"
#include "support/unpermute_case.h"

namespace gg::test {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();

class CudaPermute : public OnDeviceWith<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, CudaPermute, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(CudaPermute, SortsSlotsStablyByExpert) {
  for (int64_t topk : kTopKs) {
    SCOPED_TRACE(topk);
    const std::vector<int64_t> ids = random_ids(GetParam(), topk, 7);
    expect_right({ids, topk, 3, DType::kFloat32});
    expect_right({ids, topk, 8, DType::kBFloat16, -1, GetParam().num_experts(), DType::kInt32});
  }
}

TEST_P(CudaPermute, MovesEveryDtypeAndRowLengthUnchanged) {
  const std::vector<int64_t> ids = random_ids(GetParam(), 2, 10);
  for (DType dtype : kPermuteDTypes) {
    for (int64_t hidden : kHiddenSizes) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << hidden);
      expect_right({ids, 2, hidden, dtype});
    }
  }
}

TEST_P(CudaPermute, DropsBeyondTheOutputAndFillsRowsBeyondTheSlots) {
  const int64_t num_slots = GetParam().num_rows() * 2;
  const std::vector<int64_t> ids = random_ids(GetParam(), 2, 11);
  for (int64_t num_out : {int64_t{0}, num_slots / 2, num_slots + 5}) {
    expect_right({ids, 2, 8, DType::kFloat16, num_out, GetParam().num_experts()});
  }
}

class CudaPermuteIds : public OnDevice {};

TEST_F(CudaPermuteIds, BelowZeroAreDroppedAndLargeOnesSortLast) {
  expect_right({{1, -1, 0, -5, std::numeric_limits<int64_t>::min(), 1}, 2, 4, DType::kFloat32});
  expect_right({{kLargest, 3, 0, kLargest, 4096, 3, 4095, 4097}, 2, 4, DType::kFloat32});
  expect_right({{kLargest, 2, kLargest, 0, 1, kLargest}, 2, 4, DType::kFloat32, 3});
  expect_right({{0, 3, 2, -1, 4, 1, kLargest, 2}, 2, 4, DType::kFloat32, -1, 3});
}

TEST_F(CudaPermuteIds, OfMoreThanOneSortingBlockStayStable) {
  const std::vector<int64_t> ids = random_ids({"", {3000, 0, 1, 5000, 777}}, 2, 16);
  expect_right({ids, 2, 8, DType::kBFloat16});
  expect_right({ids, 2, 8, DType::kBFloat16, 10000, 5});
}

class CudaUnpermute : public OnDeviceWith<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, CudaUnpermute, testing::ValuesIn(group_shapes()), shape_name);

void expect_right(UnpermuteCase&& unpermute) {
  DeviceTensor input(unpermute.input), map(unpermute.row_id_map), probs(unpermute.probs),
      output(unpermute.output), residual(unpermute.residual);
  run_on_device(
      UnpermuteProblem{.input = input.view(),
                       .row_id_map = map.view(),
                       .probs = unpermute.has_probs ? probs.view() : TensorView{},
                       .output = output.view(),
                       .residual = unpermute.has_residual ? residual.view() : TensorView{}});
  EXPECT_TRUE(same_bits(output.download(), unpermute.expected()));
}

TEST_P(CudaUnpermute, GivesTheBitsOfTheCpu) {
  for (DType dtype : kPermuteDTypes) {
    for (int64_t hidden : kHiddenSizes) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << hidden);
      expect_right({GetParam(), 2, hidden, dtype, true});
      expect_right({GetParam(), 3, hidden, dtype, false});
    }
  }
}

TEST_P(CudaUnpermute, AddsAResidualBeforeTheRounding) {
  for (DType dtype : kPermuteDTypes) {
    for (int64_t hidden : kHiddenSizes) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << hidden);
      UnpermuteCase unpermute(GetParam(), 2, hidden, dtype, true);
      unpermute.has_residual = true;
      expect_right(std::move(unpermute));
    }
  }
}

TEST_P(CudaUnpermute, TakesEveryDtypeOfProbsAndManySlots) {
  for (DType dtype : kGemmDTypes) expect_right({GetParam(), 9, 8, DType::kFloat16, true, dtype});
  expect_right({GetParam(), 129, 3, DType::kFloat32, true});
}

void expect_right(UnpermuteBwdCase&& backward) {
  DeviceTensor grad(backward.output_grad), input(backward.input), map(backward.row_id_map),
      probs(backward.probs), input_grad(backward.input_grad), probs_grad(backward.probs_grad);
  run_on_device(UnpermuteBwdProblem{.output_grad = grad.view(),
                                    .input = input.view(),
                                    .row_id_map = map.view(),
                                    .probs = backward.has_probs ? probs.view() : TensorView{},
                                    .input_grad = input_grad.view(),
                                    .probs_grad = probs_grad.view()});
  EXPECT_TRUE(same_bits(input_grad.download(), backward.expected_input_grad()));
  EXPECT_TRUE(is_close(probs_grad.download(), backward.expected_probs_grad()));
}

TEST_P(CudaUnpermute, GivesTheGradientsOfTheCpu) {
  for (DType dtype : kPermuteDTypes) {
    for (int64_t hidden : {7, 64}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << hidden);
      expect_right(UnpermuteBwdCase(GetParam(), 2, hidden, dtype, true, /*extra_rows=*/6));
      expect_right(UnpermuteBwdCase(GetParam(), 1, hidden, dtype, false));
    }
  }
}

class CudaUnpermuteMaps : public OnDevice {};

TEST_F(CudaUnpermuteMaps, ThatNameDropsOrPointOutsideReadNothing) {
  UnpermuteCase unpermute({"", {9, 4}}, 2, 8, DType::kFloat32, true);
  UnpermuteBwdCase backward({"", {9, 4}}, 2, 8, DType::kFloat32, true);
  for (Tensor* map : {&unpermute.row_id_map, &backward.row_id_map}) {
    map->set_integer(0, -1);
    map->set_integer(13, -1);
    map->set_integer(1, 26);
    map->set_integer(2, std::numeric_limits<int32_t>::max());
  }
  unpermute.probs.set(0, std::numeric_limits<double>::quiet_NaN());
  expect_right(std::move(unpermute));
  expect_right(std::move(backward));
}

}  // namespace
}  // namespace gg::test
