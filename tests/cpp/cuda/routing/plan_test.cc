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
    EXPECT_LE(plan.num_blocks, GetParam().limits.num_sms)
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

TEST_P(SinkhornPlans, KeepRowFactorsAndTwoSetsOfColumnSumsInTheWorkspace) {
  const SinkhornPlan plan = plan_sinkhorn(sinkhorn_problem(131072, 64), GetParam().target());
  EXPECT_EQ(plan.num_chunks, 128);
  EXPECT_EQ(plan.workspace_bytes, (131072 + 2 * 128 * 64) * 4);
}

TEST_P(SinkhornPlans, HoldRowsOfUpTo1024ExpertsInRegisters) {
  const std::pair<int64_t, int> cases[] = {{1, 1},   {8, 1},    {9, 4},     {64, 2},   {128, 4},
                                           {129, 8}, {512, 16}, {1024, 32}, {1025, 0}, {4096, 0}};
  for (const auto& [num_experts, values] : cases) {
    const SinkhornPlan plan =
        plan_sinkhorn(sinkhorn_problem(1000, num_experts), GetParam().target());
    EXPECT_EQ(plan.values_per_lane, values) << num_experts;
  }
}

TEST_P(SinkhornPlans, KeepTheMatrixOnTheChipWhereEveryChunkFitsABlock) {
  const auto keeps = [&](int64_t num_tokens, int64_t num_experts) {
    return plan_sinkhorn(sinkhorn_problem(num_tokens, num_experts), GetParam().target()).keeps_rows;
  };
  const bool has_128_sms = GetParam().limits.num_sms >= 128;
  EXPECT_TRUE(keeps(1000, 64));
  EXPECT_EQ(keeps(8192, 64), has_128_sms);
  EXPECT_FALSE(keeps(131072, 256));
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

RouteProblem route_problem(int64_t num_tokens, int64_t num_experts, int64_t num_sequences = 1) {
  return {.options = {.topk = 1},
          .num_sequences = num_sequences,
          .logits = view(nullptr, DType::kBFloat16, {num_tokens, num_experts}),
          .probs = view(nullptr, DType::kFloat32, {num_tokens, 1}),
          .indices = view(nullptr, DType::kInt32, {num_tokens, 1}),
          .tokens_per_expert = view(nullptr, DType::kInt32, {num_sequences, num_experts})};
}

class RoutePlans : public OnEveryGpu {};
INSTANTIATE_TEST_SUITE_P(, RoutePlans, testing::ValuesIn(kGpus), gpu_name);

TEST_P(RoutePlans, AddSumsInTheSameOrderOnEveryGpu) {
  for (int64_t num_tokens : {0, 1, 512, 16384, 65536}) {
    const RouteProblem problem = route_problem(num_tokens, 128);
    EXPECT_EQ(plan_route(problem, GetParam().target()), plan_route(problem, kGpus[0].target()));
  }
}

// Of topk experts each, with the row map.
RouteProblem mapped_route_problem(int64_t num_tokens, int64_t num_experts, int topk) {
  RouteProblem problem = route_problem(num_tokens, num_experts);
  problem.options.topk = topk;
  problem.probs = view(nullptr, DType::kFloat32, {num_tokens, topk});
  problem.indices = view(nullptr, DType::kInt32, {num_tokens, topk});
  problem.row_id_map = view(nullptr, DType::kInt32, {topk, num_tokens});
  problem.offsets = view(nullptr, DType::kInt32, {num_experts});
  return problem;
}

TEST_P(RoutePlans, MakeARowMapInOneMoreLaunch) {
  for (int64_t num_tokens : {1, 512, 513, 4097, 16384, 65536, 250000}) {
    for (int64_t num_experts : {8, 128, 1024}) {
      for (int topk : {1, 6, 8}) {
        const RouteProblem problem = mapped_route_problem(num_tokens, num_experts, topk);
        const RoutePlan plan = plan_route(problem, GetParam().target());
        SCOPED_TRACE(to_string(plan));
        EXPECT_FALSE(plan.adds_totals);
        EXPECT_EQ(plan.map.map_launches, 1);
        EXPECT_LE(plan.pieces_per_sequence, 256);
        if (plan.map.counted_ranges == 0) {
          EXPECT_EQ(plan.map.num_map_blocks, 1);
          EXPECT_LE(num_tokens * topk, 4096);
          EXPECT_EQ(plan.tokens_per_piece, 0);
          EXPECT_EQ(plan.pieces_per_sequence,
                    plan_route(route_problem(num_tokens, num_experts), GetParam().target())
                        .pieces_per_sequence);
          continue;
        }
        // Every token is in one range, every range in one block of the map.
        const int64_t ranges = plan.map.counted_ranges;
        EXPECT_EQ(ranges, plan.pieces_per_sequence);
        EXPECT_GE(ranges * plan.tokens_per_piece, num_tokens);
        EXPECT_LT((ranges - 1) * plan.tokens_per_piece, num_tokens);
        EXPECT_EQ(plan.map.slots_per_block,
                  plan.map.ranges_per_block * plan.tokens_per_piece * topk);
        EXPECT_GE(plan.map.num_map_blocks * plan.map.ranges_per_block, ranges);
        EXPECT_LT((plan.map.num_map_blocks - 1) * plan.map.ranges_per_block, ranges);
        EXPECT_GE(plan.workspace_bytes, ranges * plan.map.num_bins * 2);
      }
    }
  }
}

TEST_P(RoutePlans, AddTheirOwnTotalsForSumsAndSequencesBesideAMap) {
  RouteProblem problem = mapped_route_problem(16384, 128, 8);
  problem.score_sums = view(nullptr, DType::kFloat32, {1, 128});
  problem.z_sums = view(nullptr, DType::kFloat32, {1});
  const RoutePlan with_sums = plan_route(problem, GetParam().target());
  problem.row_id_map = problem.offsets = TensorView{};
  const RoutePlan without_map = plan_route(problem, GetParam().target());
  EXPECT_TRUE(with_sums.adds_totals);
  EXPECT_EQ(with_sums.map.map_launches, 2);
  EXPECT_EQ(with_sums.map.counted_ranges, 0);
  EXPECT_EQ(with_sums.tokens_per_piece, 0) << "sums are added in the order of no map";
  EXPECT_EQ(with_sums.pieces_per_sequence, without_map.pieces_per_sequence);
  problem = mapped_route_problem(16384, 128, 8);
  problem.num_sequences = 4;
  problem.tokens_per_expert = view(nullptr, DType::kInt32, {4, 128});
  EXPECT_TRUE(plan_route(problem, GetParam().target()).adds_totals);
}

TEST_P(RoutePlans, MakeTheMapOfNoTokens) {
  for (int64_t num_experts : {8, 1024}) {
    const RoutePlan plan = plan_route(mapped_route_problem(0, num_experts, 8), GetParam().target());
    EXPECT_EQ(plan.map.counted_ranges, 0);
    EXPECT_EQ(plan.map.num_map_blocks, 1) << "which says that every expert's end is 0";
  }
}

TEST_P(RoutePlans, LeaveVeryManySlotsToTheMapsOwnCount) {
  const RoutePlan plan = plan_route(mapped_route_problem(1 << 20, 64, 8), GetParam().target());
  EXPECT_FALSE(plan.adds_totals);
  EXPECT_EQ(plan.map.map_launches, 2);
  EXPECT_EQ(plan.map.counted_ranges, 0);
}

TEST_P(RoutePlans, GiveEverySequenceItsOwnBlocks) {
  const RoutePlan plan = plan_route(route_problem(16384, 128, 16), GetParam().target());
  EXPECT_EQ(plan.path, Path::kPortable);
  EXPECT_EQ(plan.pieces_per_sequence, 16);  // 256 blocks in all
  EXPECT_EQ(plan.workspace_bytes, 16 * 16 * (128 + 1) * 4);
  EXPECT_EQ(plan_route(route_problem(16384, 8, 1024), GetParam().target()).pieces_per_sequence, 1);
  EXPECT_EQ(plan_route(route_problem(0, 8), GetParam().target()).pieces_per_sequence, 0);
}

TEST_P(RoutePlans, HoldATokenInAQuarterOfAWarpOrInAWhole) {
  const std::pair<int64_t, int> cases[] = {{1, 8}, {8, 8}, {32, 8}, {33, 32}, {1024, 32}};
  for (const auto& [num_experts, lanes] : cases) {
    const RoutePlan plan = plan_route(route_problem(100, num_experts), GetParam().target());
    EXPECT_EQ(plan.lanes_per_token, lanes) << num_experts;
    EXPECT_GE(plan.lanes_per_token * plan.values_per_lane, num_experts);
  }
}

RouteBwdProblem route_bwd_problem(int64_t num_tokens, int64_t num_experts, int topk,
                                  DType dtype = DType::kFloat32) {
  const TensorView logits = view(nullptr, dtype, {num_tokens, num_experts});
  const TensorView probs = view(nullptr, DType::kFloat32, {num_tokens, topk});
  return {.options = {.topk = topk},
          .logits = logits,
          .indices = view(nullptr, DType::kInt32, {num_tokens, topk}),
          .probs = probs,
          .probs_grad = probs,
          .logits_grad = logits};
}

TEST_P(RoutePlans, ComposeTilesOfTwoKilobytesWhereOnlyChosenLogitsGetAGradient) {
  const auto tokens = [&](int64_t num_experts, int topk, DType dtype = DType::kFloat32) {
    return plan_route_bwd(route_bwd_problem(1000, num_experts, topk, dtype), GetParam().target())
        .tokens_per_tile;
  };
  EXPECT_EQ(tokens(8, 1), 64);
  EXPECT_EQ(tokens(8, 2), 64);
  EXPECT_EQ(tokens(8, 8), 16);  // four choices of a lane: 32 * 4 / 8
  EXPECT_EQ(tokens(64, 8), 8);
  EXPECT_EQ(tokens(128, 8), 4);
  EXPECT_EQ(tokens(128, 8, DType::kBFloat16), 8);
  EXPECT_EQ(tokens(256, 8), 2);
  EXPECT_EQ(tokens(1024, 32), 1);
  EXPECT_EQ(tokens(1023, 1), 1);                   // 4 rows would take 16 KB
  EXPECT_EQ(tokens(511, 1), 4);                    // 2 KB make one row, 4 a multiple of 16 bytes
  EXPECT_EQ(tokens(129, 8, DType::kBFloat16), 8);  // 7 rows fit in 2 KB
}

TEST_P(RoutePlans, TakeRowsIntoRegistersWhereEveryLogitGetsAGradient) {
  RouteBwdProblem problem = route_bwd_problem(16384, 128, 8);
  EXPECT_EQ(plan_route_bwd(problem, GetParam().target()).lanes_per_token, 0);
  problem.z_sums_grad = view(nullptr, DType::kFloat32, {1});
  const RoutePlan plan = plan_route_bwd(problem, GetParam().target());
  EXPECT_EQ(plan.tokens_per_tile, 0);
  EXPECT_EQ(plan.lanes_per_token, 32);
  EXPECT_EQ(plan.values_per_lane, 4);
  EXPECT_EQ(plan.pieces_per_sequence, 2048);  // 8 warps each
  problem.z_sums_grad = TensorView{};
  problem.options.pre_softmax = true;
  EXPECT_EQ(plan_route_bwd(problem, GetParam().target()).tokens_per_tile, 0);
  problem.options.score_function = ScoreFunction::kSigmoid;
  EXPECT_EQ(plan_route_bwd(problem, GetParam().target()).tokens_per_tile, 4);
}

TEST(SinkhornRefuses, GpusOlderThanVolta) {
  const ScopedEnvironment nothing_forced("GG_FORCE_PATH", nullptr);
  EXPECT_TRUE(refuses([] { plan_sinkhorn(sinkhorn_problem(64, 8), kTooOldGpu.target()); },
                      {"sinkhorn: got a CUDA device of compute capability 6.0"}));
}

}  // namespace
}  // namespace gg::test
