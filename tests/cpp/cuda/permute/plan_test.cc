// What permute and unpermute plan for each generation of GPUs. Needs no GPU.
#include <gtest/gtest.h>

#include <array>

#include "cuda/permute/permute_rows_policy.h"
#include "cuda/support/limits.h"

namespace gg::test {
namespace {

void* address(uintptr_t value) { return reinterpret_cast<void*>(value); }

PermuteProblem permute_problem(int64_t num_tokens, int64_t topk, int64_t hidden, DType dtype,
                               int64_t num_experts = 0) {
  return {.input = view(nullptr, dtype, {num_tokens, hidden}),
          .indices = view(nullptr, DType::kInt64, {num_tokens, topk}),
          .output = view(nullptr, dtype, {num_tokens * topk, hidden}),
          .row_id_map = view(nullptr, DType::kInt32, {topk, num_tokens}),
          .num_experts = num_experts};
}

class PermutePlans : public OnEveryGpu {};
INSTANTIATE_TEST_SUITE_P(, PermutePlans, testing::ValuesIn(kGpus), gpu_name);

TEST_P(PermutePlans, TakeThePortablePath) {
  const PermuteProblem problem = permute_problem(4096, 8, 1024, DType::kBFloat16, 64);
  const PermutePlan plan = plan_permute(problem, GetParam().target());
  EXPECT_EQ(plan.path, Path::kPortable);
  EXPECT_EQ(plan, plan_permute(problem, GetParam().target()));
  EXPECT_EQ(to_string(plan).rfind("permute portable map=2x32 blocks items=2 bins=64 "
                                  "slots_per_block=1024 vector=16B",
                                  0),
            0u)
      << to_string(plan);
}

TEST_P(PermutePlans, HaveABinForEachExpertAndOneForLargerIds) {
  const auto num_bins = [&](int64_t num_experts) {
    const PermuteProblem problem = permute_problem(64, 2, 8, DType::kFloat32, num_experts);
    return plan_permute(problem, GetParam().target()).num_bins;
  };
  EXPECT_EQ(num_bins(1), 8);
  EXPECT_EQ(num_bins(60), 64);
  EXPECT_EQ(num_bins(256), 256);
  EXPECT_EQ(num_bins(257), 384);
  EXPECT_EQ(num_bins(0), 4097) << "unknown experts: ids below 4096 are counted";
}

TEST_P(PermutePlans, SortFewSlotsOfKnownExpertsInOneLaunch) {
  const auto map_launches = [&](int64_t num_tokens, int64_t num_experts) {
    const PermuteProblem problem = permute_problem(num_tokens, 8, 8, DType::kFloat32, num_experts);
    return plan_permute(problem, GetParam().target()).map_launches;
  };
  EXPECT_EQ(map_launches(0, 128), 1);
  EXPECT_EQ(map_launches(512, 128), 1);
  EXPECT_EQ(map_launches(512, 512), 1);
  EXPECT_EQ(map_launches(513, 128), 2);
  EXPECT_EQ(map_launches(512, 0), 2);
}

TEST_P(PermutePlans, CutTheSlotsIntoAFewBlocksAndCountEach) {
  for (int64_t num_tokens : {1000, 16384, 131072, 1 << 20, 1 << 27}) {
    const PermuteProblem problem = permute_problem(num_tokens, 8, 8, DType::kFloat32, 64);
    const PermutePlan plan = plan_permute(problem, GetParam().target());
    EXPECT_EQ(plan.slots_per_block % (512 * plan.map_items), 0) << "whole tiles";
    EXPECT_LE(plan.num_map_blocks, 128);
    EXPECT_GE(plan.slots_per_block * plan.num_map_blocks, num_tokens * 8);
    EXPECT_LT(plan.slots_per_block * (plan.num_map_blocks - 1), num_tokens * 8);
    EXPECT_GE(plan.workspace_bytes, plan.num_map_blocks * plan.num_bins * 2);
    EXPECT_LE(plan.workspace_bytes, 128 * plan.num_bins * 4 + 64) << "whatever T is";
  }
}

TEST_P(PermutePlans, GiveAThreadMoreSlotsOnceEveryBlockIsBusy) {
  const auto items = [&](int64_t num_slots) {
    const PermuteProblem problem = permute_problem(num_slots, 1, 8, DType::kFloat32, 128);
    return plan_permute(problem, GetParam().target()).map_items;
  };
  EXPECT_EQ(items(65536), 2);
  EXPECT_EQ(items(131072), 2);
  EXPECT_EQ(items(131073), 4);
  EXPECT_EQ(items(262145), 8);
  EXPECT_EQ(items(524288), 8);
  EXPECT_EQ(items(524289), 16);
  EXPECT_EQ(items(1 << 30), 16);
}

TEST_P(PermutePlans, RankByMasksWhereTheyHaveRoom) {
  const auto has_masks = [&](int64_t num_tokens, int64_t num_experts) {
    const PermuteProblem problem = permute_problem(num_tokens, 8, 8, DType::kFloat32, num_experts);
    return plan_permute(problem, GetParam().target()).map_has_masks;
  };
  EXPECT_TRUE(has_masks(512, 128));
  EXPECT_TRUE(has_masks(8192, 256));
  EXPECT_FALSE(has_masks(512, 1024)) << "one block: 6 bytes for each of 32 warps and 14, a bin";
  EXPECT_FALSE(has_masks(8192, 2048)) << "6 bytes for each of 16 warps and 14, a bin";
  EXPECT_FALSE(has_masks(8192, 10000)) << "no table for each warp";
}

TEST_P(PermutePlans, StartBeforeThePreviousKernelEndsWhereTheCallIsShort) {
  const auto starts_early = [&](int64_t num_tokens, int64_t hidden, int64_t num_experts) {
    const PermuteProblem problem =
        permute_problem(num_tokens, 8, hidden, DType::kBFloat16, num_experts);
    return plan_permute(problem, GetParam().target()).starts_early;
  };
  EXPECT_TRUE(starts_early(1, 7168, 128));
  EXPECT_TRUE(starts_early(32768, 0, 128));
  EXPECT_FALSE(starts_early(32769, 0, 128)) << "more than 256 K slots";
  EXPECT_TRUE(starts_early(8192, 0, 0));
  EXPECT_FALSE(starts_early(8193, 0, 0)) << "more than 64 K slots of unknown experts";
  // 16384 tokens: 9 * 16384 rows of 2 * h bytes.
  EXPECT_TRUE(starts_early(16384, 1820, 128));
  EXPECT_FALSE(starts_early(16384, 1821, 128)) << "512 MB of rows";
}

TEST_P(PermutePlans, CountEveryExpertOnceWhereWarpsHaveNoTablesOfTheirOwn) {
  const PermuteProblem problem = permute_problem(8192, 8, 8, DType::kFloat32, 10000);
  const PermutePlan plan = plan_permute(problem, GetParam().target());
  EXPECT_EQ(plan.map_items, 0);
  EXPECT_EQ(plan.num_bins, 10000);
}

TEST_P(PermutePlans, MoveRowsByTheWidestAccessThatEveryRowAllows) {
  const auto vector_bytes = [&](int64_t hidden, DType dtype, uintptr_t input, uintptr_t output) {
    PermuteProblem problem = permute_problem(64, 2, hidden, dtype);
    problem.input.data = address(input);
    problem.output.data = address(output);
    return plan_permute(problem, GetParam().target()).vector_bytes;
  };
  EXPECT_EQ(vector_bytes(64, DType::kBFloat16, 256, 512), 16);
  EXPECT_EQ(vector_bytes(12, DType::kBFloat16, 256, 512), 8);
  EXPECT_EQ(vector_bytes(7, DType::kBFloat16, 256, 512), 2);
  EXPECT_EQ(vector_bytes(7, DType::kFloat32, 256, 512), 4);
  EXPECT_EQ(vector_bytes(129, DType::kFloat8E4M3, 256, 512), 1);
  EXPECT_EQ(vector_bytes(64, DType::kBFloat16, 258, 512), 2) << "input off by an element";
  EXPECT_EQ(vector_bytes(64, DType::kBFloat16, 256, 520), 8) << "output off by four";
}

TEST_P(PermutePlans, LookAtTheDistanceOfInputRows) {
  PermuteProblem problem = permute_problem(64, 2, 64, DType::kBFloat16);
  problem.input = view(nullptr, DType::kBFloat16, {64, 64}, {66, 1});
  EXPECT_EQ(plan_permute(problem, GetParam().target()).vector_bytes, 4);
}

TEST_P(PermutePlans, RefuseMoreExpertsThanSharedMemoryCounts) {
  const int64_t shared_bytes = GetParam().limits.shared_bytes_per_block;
  const PermuteProblem problem = permute_problem(64, 2, 8, DType::kFloat32, shared_bytes / 4);
  EXPECT_TRUE(refuses([&] { plan_permute(problem, GetParam().target()); },
                      {"permute: num_experts got " + std::to_string(shared_bytes / 4),
                       std::to_string(shared_bytes) + " bytes of shared memory"}));
}

TEST_P(PermutePlans, TakeTenThousandExpertsEverywhere) {
  const PermuteProblem problem = permute_problem(64, 2, 8, DType::kFloat32, 10000);
  EXPECT_NO_THROW(plan_permute(problem, GetParam().target()));
}

UnpermuteProblem unpermute_problem(DType dtype, int64_t hidden, DType probs = DType::kFloat32) {
  return {.input = view(nullptr, dtype, {128, hidden}),
          .row_id_map = view(nullptr, DType::kInt32, {2, 64}),
          .probs = view(nullptr, probs, {64, 2}),
          .output = view(nullptr, dtype, {64, hidden})};
}

UnpermuteBwdProblem unpermute_bwd_problem(DType dtype, int64_t hidden, int64_t tokens = 64) {
  return {.output_grad = view(nullptr, dtype, {tokens, hidden}),
          .input = view(nullptr, dtype, {2 * tokens, hidden}),
          .row_id_map = view(nullptr, DType::kInt32, {2, tokens}),
          .probs = view(nullptr, DType::kFloat32, {tokens, 2}),
          .input_grad = view(nullptr, dtype, {2 * tokens, hidden}),
          .probs_grad = view(nullptr, DType::kFloat32, {tokens, 2})};
}

TEST_P(PermutePlans, OfUnpermuteNeedAWorkspaceForTheInputsGradientByALongMapOnly) {
  const UnpermuteProblem forward = unpermute_problem(DType::kBFloat16, 64);
  const UnpermutePlan plan = plan_unpermute(forward, GetParam().target());
  EXPECT_EQ(to_string(plan), "unpermute portable vector=16B workspace=0B");
  UnpermuteBwdProblem backward = unpermute_bwd_problem(DType::kBFloat16, 63, 32768);
  EXPECT_EQ(to_string(plan_unpermute_bwd(backward, GetParam().target())),
            "unpermute portable vector=2B workspace=0B");
  backward = unpermute_bwd_problem(DType::kBFloat16, 63, 32769);
  EXPECT_EQ(plan_unpermute_bwd(backward, GetParam().target()).workspace_bytes, 2 * 32769 * 4);
  backward.input_grad = TensorView{};
  EXPECT_EQ(plan_unpermute_bwd(backward, GetParam().target()).workspace_bytes, 0);
}

TEST_P(PermutePlans, OfUnpermuteNeedAWorkspaceForManyGradientsThatAreCopies) {
  const auto workspace_bytes = [](int64_t hidden, DType map = DType::kInt32) {
    UnpermuteBwdProblem copies = unpermute_bwd_problem(DType::kBFloat16, hidden, 512);
    copies.row_id_map = view(nullptr, map, {2, 512});
    copies.probs = copies.probs_grad = copies.input = TensorView{};
    return plan_unpermute_bwd(copies, GetParam().target()).workspace_bytes;
  };
  EXPECT_EQ(workspace_bytes(16384), 1024 * 4);  // 32 MiB of gradients
  EXPECT_EQ(workspace_bytes(16383), 0);
  EXPECT_EQ(workspace_bytes(16384, DType::kInt64), 0) << "permute has no such maps";
}

TEST_P(PermutePlans, OfUnpermuteRefuseFloat64) {
  EXPECT_TRUE(
      refuses([&] { plan_unpermute(unpermute_problem(DType::kFloat64, 8), GetParam().target()); },
              {"unpermute: got dtype float64", "CUDA"}));
  EXPECT_TRUE(refuses(
      [&] {
        plan_unpermute(unpermute_problem(DType::kFloat32, 8, DType::kFloat64), GetParam().target());
      },
      {"unpermute: probs got dtype float64", "CUDA"}));
  EXPECT_TRUE(refuses(
      [&] { plan_unpermute_bwd(unpermute_bwd_problem(DType::kFloat64, 8), GetParam().target()); },
      {"unpermute_bwd: "}));
}

constexpr DeviceLimits kHopper{
    .compute_capability = 90, .num_sms = 132, .shared_bytes_per_block = 232448};
constexpr int64_t kManyTokens = 65536;

cuda::PermuteRowsPolicy rows_policy(int64_t row_bytes, int64_t topk, int64_t tokens = kManyTokens,
                                    const DeviceLimits& limits = kHopper) {
  return cuda::permute_rows_policy(row_bytes, topk, tokens, limits);
}

// So many blocks and no more fit into the 228 KB of a multiprocessor, 1 KB of a block the system's.
int blocks_that_fit(const cuda::PermuteRowsPolicy& policy) {
  return static_cast<int>(228 * 1024 / (policy.spare_shared_bytes + 1024));
}

TEST(PermuteRowsPolicies, KeepAboutAsManyBytesInHandWhateverTheRow) {
  for (const auto& [row_bytes, topk, threads, blocks] : {std::array<int64_t, 4>{4096, 8, 256, 3},
                                                         {8192, 8, 256, 2},
                                                         {10240, 8, 512, 2},
                                                         {14336, 8, 512, 1},
                                                         {28672, 8, 512, 1},
                                                         {4096, 6, 256, 4},
                                                         {14336, 4, 512, 2}}) {
    const cuda::PermuteRowsPolicy policy = rows_policy(row_bytes, topk);
    EXPECT_EQ(policy.threads, threads) << row_bytes << " bytes, topK " << topk;
    const bool is_most = blocks == 1280 / threads;  // registers allow no more
    EXPECT_EQ(policy.spare_shared_bytes > 0, !is_most) << row_bytes << " bytes, topK " << topk;
    EXPECT_TRUE(is_most || blocks_that_fit(policy) == blocks) << blocks_that_fit(policy);
    EXPECT_LE(policy.spare_shared_bytes, kHopper.shared_bytes_per_block);
  }
}

TEST(PermuteRowsPolicies, LeaveAloneWhatWasNotMeasured) {
  const cuda::PermuteRowsPolicy plain;
  EXPECT_EQ(rows_policy(4096, 2), plain);        // few targets
  EXPECT_EQ(rows_policy(14336, 2), plain);       // two blocks of 512 threads would be too few
  EXPECT_EQ(rows_policy(4095, 8), plain);        // short rows
  EXPECT_EQ(rows_policy(4096, 8, 4095), plain);  // little output
  EXPECT_EQ(rows_policy(4096, 8, 0), plain);
  EXPECT_EQ(rows_policy(4096, 0), plain);
  EXPECT_EQ(rows_policy(14336, 8, kManyTokens,
                        {.compute_capability = 80, .shared_bytes_per_block = 166912}),
            plain);
}

TEST(PermuteRefuses, GpusOlderThanVolta) {
  const ScopedEnvironment nothing_forced("GG_FORCE_PATH", nullptr);
  const std::string capability = "got a CUDA device of compute capability 6.0";
  const Target target = kTooOldGpu.target();
  EXPECT_TRUE(
      refuses([&] { plan_permute(permute_problem(64, 2, 8, DType::kFloat32), target); },
              {"permute: " + capability, "needs 7.0 or more", "run on a newer GPU or on the CPU"}));
  EXPECT_TRUE(refuses([&] { plan_unpermute(unpermute_problem(DType::kFloat32, 8), target); },
                      {"unpermute: " + capability}));
  EXPECT_TRUE(
      refuses([&] { plan_unpermute_bwd(unpermute_bwd_problem(DType::kFloat32, 8), target); },
              {"unpermute_bwd: " + capability}));
}

}  // namespace
}  // namespace gg::test
