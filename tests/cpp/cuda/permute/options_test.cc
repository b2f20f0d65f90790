// permute's padding, capacity, and what travels with the rows, on a GPU.
#include <gtest/gtest.h>

#include "cuda/support/permute.h"
#include "support/permute_options.h"

namespace gg::test {
namespace {

class CudaPermuteWithOptions : public OnDeviceWith<GroupShape> {};
INSTANTIATE_TEST_SUITE_P(, CudaPermuteWithOptions, testing::ValuesIn(group_shapes()), shape_name);

TEST_P(CudaPermuteWithOptions, FillsTheRowsThatTheyAskFor) {
  const int64_t experts = GetParam().num_experts();
  for (const PermuteOptions& options : permute_options()) {
    SCOPED_TRACE(options_text(options));
    for (int64_t topk : {1, 3}) {
      std::vector<int64_t> ids = random_ids(GetParam(), topk, 30);
      if (!ids.empty()) ids[ids.size() / 2] = experts;  // no expert
      expect_right({ids, topk, 5, DType::kBFloat16, -1, experts, options}, topk == 1);
      expect_right({ids, topk, 64, DType::kFloat8E4M3, -1, experts, options}, topk != 1);
    }
  }
}

TEST_P(CudaPermuteWithOptions, CutsTheRowsThatTheOutputHasNoRoomFor) {
  const std::vector<int64_t> ids = random_ids(GetParam(), 2, 31);
  for (const PermuteOptions& options : permute_options()) {
    SCOPED_TRACE(options_text(options));
    for (int64_t num_out : {int64_t{0}, static_cast<int64_t>(ids.size()) / 2}) {
      expect_right({ids, 2, 8, DType::kFloat32, num_out, GetParam().num_experts(), options});
    }
  }
}

class CudaPermuteOptions : public OnDevice {};

// One block, several, and more experts than a table for each warp has room for.
TEST_F(CudaPermuteOptions, AreRightForFewAndManySlotsAndExperts) {
  for (int64_t experts : {1, 60, 513, 5000}) {
    for (int64_t num_slots : {3000, 9000}) {
      std::vector<int64_t> ids(static_cast<size_t>(num_slots));
      Random random(32);
      for (int64_t& id : ids) id = random.below(experts + 1) - 1;
      for (const PermuteOptions& options : permute_options()) {
        SCOPED_TRACE(
            base::concat(experts, " experts, ", num_slots, " slots, ", options_text(options)));
        expect_right({ids, 2, 0, DType::kFloat32, -1, experts, options});
      }
    }
  }
}

TEST_F(CudaPermuteOptions, KeepTheFirstOfEqualProbsAndNaNLast) {
  const PermuteOptions options{
      .capacity = 300, .drop_policy = DropPolicy::kProbs, .has_probs = true};
  PermuteCase permute(std::vector<int64_t>(1000, 0), 1, 1, DType::kFloat32, -1, 1, options);
  const double values[] = {0.5, -INFINITY, -0.0, 0.0, INFINITY, -1.0, 0.0, 0.25};
  for (int64_t slot = 0; slot < 1000; ++slot) permute.probs.set(slot, values[slot * slot % 8]);
  expect_right(std::move(permute));
}

TEST_F(CudaPermuteOptions, BringEachSlotThatHasARowItsGradient) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    Tensor grad(dtype, {5}), map(DType::kInt32, {2, 3}), probs_grad(dtype, {3, 2});
    grad.fill({1, 2, 3, 4, 5});
    map.fill_integers({4, -1, 0, 1, 5, 2});
    DeviceTensor grad_there(grad), map_there(map), probs_grad_there(probs_grad);
    run_on_device(PermuteProbsBwdProblem{.permuted_probs_grad = grad_there.view(),
                                         .row_id_map = map_there.view(),
                                         .probs_grad = probs_grad_there.view()});
    EXPECT_EQ(probs_grad_there.download().values(), (std::vector<double>{5, 2, 0, 0, 1, 3}));
  }
}

}  // namespace
}  // namespace gg::test
