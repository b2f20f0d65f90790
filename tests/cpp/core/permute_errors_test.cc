// What permute and unpermute refuse, and in which words: each problem is right
// but for one thing.
#include <gtest/gtest.h>

#include <functional>

#include "support/run.h"

namespace gg {
namespace {

using test::refuses;

TensorView f32(std::initializer_list<int64_t> sizes) {
  return view(nullptr, DType::kFloat32, sizes);
}
TensorView i32(std::initializer_list<int64_t> sizes) { return view(nullptr, DType::kInt32, sizes); }

// A right problem: 4 tokens of 8 features, 2 slots each, 3 experts.
PermuteProblem right_permute() {
  return {.input = f32({4, 8}),
          .indices = view(nullptr, DType::kInt64, {4, 2}),
          .output = f32({8, 8}),
          .row_id_map = i32({2, 4}),
          .num_experts = 3,
          .tokens_per_expert = i32({3}),
          .offsets = i32({3})};
}

UnpermuteProblem right_unpermute() {
  return {
      .input = f32({8, 8}), .row_id_map = i32({2, 4}), .probs = f32({4, 2}), .output = f32({4, 8})};
}

UnpermuteBwdProblem right_unpermute_bwd() {
  return {.output_grad = f32({4, 8}),
          .input = f32({8, 8}),
          .row_id_map = i32({2, 4}),
          .probs = f32({4, 2}),
          .input_grad = f32({8, 8}),
          .probs_grad = f32({4, 2})};
}

// The right problem with one member replaced is refused in these words.
template <typename Problem>
void expect_refused(Problem problem, TensorView Problem::* member, const TensorView& wrong,
                    std::initializer_list<std::string> parts) {
  problem.*member = wrong;
  EXPECT_TRUE(refuses([&] { test::plan_for(problem, Target::cpu()); }, parts));
}

TEST(PermuteRefuses, NothingThatIsRight) {
  EXPECT_NO_THROW(plan_permute(right_permute(), Target::cpu()));
  EXPECT_NO_THROW(plan_unpermute(right_unpermute(), Target::cpu()));
  EXPECT_NO_THROW(plan_unpermute_bwd(right_unpermute_bwd(), Target::cpu()));
}

TEST(PermuteRefuses, AnInputOfTheWrongRank) {
  expect_refused(right_permute(), &PermuteProblem::input, f32({4, 8, 1}),
                 {"permute: input got 3 dimensions, shape [4, 8, 1]", "needs 2"});
}

TEST(PermuteRefuses, AnInputOfIntegers) {
  expect_refused(right_permute(), &PermuteProblem::input, i32({4, 8}),
                 {"permute: input got dtype int32", "float32", "bfloat16", "float8_e4m3fn"});
}

TEST(PermuteRefuses, AnInputWhoseRowsHaveGaps) {
  expect_refused(right_permute(), &PermuteProblem::input,
                 view(nullptr, DType::kFloat32, {4, 8}, {16, 2}),
                 {"permute: input got elements of a row 2 apart"});
}

TEST(PermuteRefuses, IndicesThatAreNotIntegers) {
  expect_refused(right_permute(), &PermuteProblem::indices, f32({4, 2}),
                 {"permute: indices got dtype float32", "int32, int64", "cast the expert ids"});
}

TEST(PermuteRefuses, IndicesOfOtherTokens) {
  expect_refused(right_permute(), &PermuteProblem::indices, view(nullptr, DType::kInt64, {5, 2}),
                 {"permute: indices got shape [5, 2]", "needs [4, 2]"});
}

TEST(PermuteRefuses, IndicesWithGaps) {
  expect_refused(right_permute(), &PermuteProblem::indices,
                 view(nullptr, DType::kInt64, {4, 2}, {4, 1}),
                 {"permute: indices got ", "contiguous"});
}

TEST(PermuteRefuses, AnOutputOfOtherFeaturesOrDtype) {
  expect_refused(right_permute(), &PermuteProblem::output, f32({8, 9}),
                 {"permute: output got shape [8, 9]", "needs [8, 8]", "hidden"});
  expect_refused(right_permute(), &PermuteProblem::output, view(nullptr, DType::kFloat16, {8, 8}),
                 {"permute: output got dtype float16", "needs float32"});
}

TEST(PermuteRefuses, AMapOfTheWrongShapeOrDtype) {
  expect_refused(right_permute(), &PermuteProblem::row_id_map, i32({4, 2}),
                 {"permute: row_id_map got shape [4, 2]", "needs [2, 4]", "[topK, tokens]"});
  expect_refused(right_permute(), &PermuteProblem::row_id_map, view(nullptr, DType::kInt64, {2, 4}),
                 {"permute: row_id_map got dtype int64", "needs int32"});
}

TEST(PermuteRefuses, MoreSlotsThanRowNumbersCanName) {
  PermuteProblem problem = right_permute();
  const int64_t num_tokens = int64_t{1} << 30;
  problem.input = f32({num_tokens, 8});
  problem.indices = view(nullptr, DType::kInt64, {num_tokens, 2});
  problem.row_id_map = i32({2, num_tokens});
  EXPECT_TRUE(refuses([&] { plan_permute(problem, Target::cpu()); },
                      {"permute: indices got 2147483648 slots", "2147483647", "split the tokens"}));
}

TEST(PermuteRefuses, ANegativeNumberOfExperts) {
  PermuteProblem problem = right_permute();
  problem.num_experts = -3;
  EXPECT_TRUE(
      refuses([&] { plan_permute(problem, Target::cpu()); }, {"permute: num_experts got -3"}));
}

TEST(PermuteRefuses, CountsWithoutTheirEnds) {
  expect_refused(right_permute(), &PermuteProblem::offsets, TensorView{},
                 {"tokens_per_expert and offsets got only one", "both or neither"});
}

TEST(PermuteRefuses, CountsOfOtherExperts) {
  expect_refused(right_permute(), &PermuteProblem::tokens_per_expert, i32({4}),
                 {"permute: tokens_per_expert got shape [4]", "needs [3]"});
  expect_refused(right_permute(), &PermuteProblem::offsets, view(nullptr, DType::kInt64, {3}),
                 {"permute: offsets got dtype int64", "needs int32"});
  expect_refused(right_permute(), &PermuteProblem::slot_of_row, i32({3}),
                 {"permute: slot_of_row got shape [3]", "one entry for each row of output"});
}

TEST(PermuteRefuses, PaddingOrACapacityWithoutGroups) {
  for (int64_t PermuteProblem::* member :
       {&PermuteProblem::align_size, &PermuteProblem::capacity}) {
    PermuteProblem problem = right_permute();
    problem.*member = 16;
    EXPECT_NO_THROW(plan_permute(problem, Target::cpu()));
    problem.tokens_per_expert = problem.offsets = TensorView{};
    EXPECT_TRUE(refuses([&] { plan_permute(problem, Target::cpu()); },
                        {" got 16 without groups", "num_experts, tokens_per_expert and offsets"}));
  }
}

TEST(PermuteRefuses, AGivenMapWithoutGroupsOrBesideACapacity) {
  PermuteProblem right = right_permute();
  right.slot_of_row = TensorView{};
  right.map_is_given = true;
  EXPECT_NO_THROW(plan_permute(right, Target::cpu()));
  PermuteProblem problem = right;
  problem.tokens_per_expert = problem.offsets = TensorView{};
  EXPECT_TRUE(refuses([&] { plan_permute(problem, Target::cpu()); },
                      {"permute: row_id_map got given without groups", "num_experts"}));
  problem = right;
  problem.capacity = 2;
  EXPECT_TRUE(refuses([&] { plan_permute(problem, Target::cpu()); }, {"capacity got 2 beside"}));
  expect_refused(right, &PermuteProblem::slot_of_row, i32({8}), {"slot_of_row", "beside a given"});
  expect_refused(right, &PermuteProblem::row_id_map, i32({2, 5}), {"row_id_map got shape [2, 5]"});
}

TEST(PermuteRefuses, ProbsOrScalesThatDoNotFit) {
  PermuteProblem problem = right_permute();
  problem.drop_policy = DropPolicy::kProbs;
  EXPECT_TRUE(refuses([&] { plan_permute(problem, Target::cpu()); },
                      {"permute: drop_policy got probs without probs"}));
  problem.probs = f32({4, 2});
  problem.permuted_probs = f32({8});
  problem.scales = f32({4, 3});
  problem.permuted_scales = f32({8, 3});
  EXPECT_NO_THROW(plan_permute(problem, Target::cpu()));
  expect_refused(problem, &PermuteProblem::permuted_probs, f32({9}),
                 {"permute: permuted_probs got shape [9]", "needs [8]"});
  expect_refused(problem, &PermuteProblem::permuted_scales, f32({8, 2}),
                 {"permute: permuted_scales got shape [8, 2]", "needs [8, 3]"});
}

TEST(UnpermuteRefuses, AResidualThatIsNotTheOutputsKind) {
  expect_refused(right_unpermute(), &UnpermuteProblem::residual, f32({3, 8}),
                 {"unpermute: residual got shape [3, 8]", "needs [4, 8]"});
  expect_refused(right_unpermute(), &UnpermuteProblem::residual,
                 view(nullptr, DType::kFloat16, {4, 8}),
                 {"unpermute: residual got dtype float16", "needs float32"});
}

TEST(UnpermuteRefuses, AMapOfOtherTokens) {
  expect_refused(right_unpermute(), &UnpermuteProblem::row_id_map, i32({2, 5}),
                 {"unpermute: row_id_map got shape [2, 5]", "needs [2, 4]"});
  expect_refused(right_unpermute(), &UnpermuteProblem::row_id_map, f32({2, 4}),
                 {"unpermute: row_id_map got dtype float32", "int32, int64"});
}

TEST(UnpermuteRefuses, ProbsOfTheWrongShapeOrDtype) {
  expect_refused(right_unpermute(), &UnpermuteProblem::probs, f32({2, 4}),
                 {"unpermute: probs got shape [2, 4]", "needs [4, 2]", "[tokens, topK]"});
  expect_refused(right_unpermute(), &UnpermuteProblem::probs, i32({4, 2}),
                 {"unpermute: probs got dtype int32", "float32"});
}

TEST(UnpermuteRefuses, AnOutputThatIsNotTheInputsKind) {
  expect_refused(right_unpermute(), &UnpermuteProblem::output, f32({4, 7}),
                 {"unpermute: output got shape [4, 7]", "needs [4, 8]"});
  expect_refused(right_unpermute(), &UnpermuteProblem::output,
                 view(nullptr, DType::kBFloat16, {4, 8}),
                 {"unpermute: output got dtype bfloat16", "needs float32"});
}

TEST(UnpermuteBwdRefuses, GradientsOfTheWrongShapeOrDtype) {
  expect_refused(right_unpermute_bwd(), &UnpermuteBwdProblem::input_grad, f32({8, 9}),
                 {"unpermute_bwd: input_grad got shape [8, 9]", "needs [8, 8]"});
  expect_refused(right_unpermute_bwd(), &UnpermuteBwdProblem::probs_grad,
                 view(nullptr, DType::kBFloat16, {4, 2}),
                 {"unpermute_bwd: probs_grad got dtype bfloat16", "needs float32"});
}

TEST(UnpermuteBwdRefuses, AProbGradientWithoutTheForwardsInput) {
  expect_refused(right_unpermute_bwd(), &UnpermuteBwdProblem::input, TensorView{},
                 {"unpermute_bwd: input got shape []", "needs [8, 8]", "the forward's rows"});
}

TEST(UnpermuteBwdRefuses, AnInputOfAnotherDtypeThanTheGradient) {
  expect_refused(right_unpermute_bwd(), &UnpermuteBwdProblem::input,
                 view(nullptr, DType::kFloat16, {8, 8}),
                 {"unpermute_bwd: input got dtype float16", "needs float32"});
}

}  // namespace
}  // namespace gg
