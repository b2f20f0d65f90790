// Which problems take path sm80 on which GPU, with which tile and how many stages, and what the
// plan says of those that do not. Needs no GPU.
#include <gtest/gtest.h>

#include <utility>

#include "base/math.h"
#include "cuda/gemm/sm80/door.h"
#include "cuda/gemm/sm80/policy.h"
#include "cuda/support/limits.h"

namespace gg::test {
namespace {

using cuda::sm80::Pair;
using cuda::sm80::Shape;
using cuda::sm80::shape_for;
using cuda::sm80::Wide;
using cuda::sm80::Work;

constexpr DeviceLimits kA100{
    .compute_capability = 80, .num_sms = 108, .shared_bytes_per_block = 166912};
constexpr DeviceLimits kBlackwell{
    .compute_capability = 100, .num_sms = 148, .shared_bytes_per_block = 232448};

DeviceLimits granting(int64_t shared_bytes) {
  return {.compute_capability = 80, .num_sms = 100, .shared_bytes_per_block = shared_bytes};
}
constexpr Work kMuch{.num_columns = 4096, .wide_tiles = 5000, .small_tiles = 10000};
constexpr Work kMuchInPairs{
    .num_columns = 4096, .wide_tiles = 5000, .small_tiles = 10000, .prefers_pairs = true};
constexpr Work kSlim{.num_columns = 128, .wide_tiles = 5000, .small_tiles = 5000};
constexpr Work kLittle{
    .num_columns = 4096, .wide_tiles = 50, .small_tiles = 100, .prefers_pairs = true};

TEST(Sm80Shapes, FollowFromTheSharedMemoryOfABlock) {
  struct Row {
    int64_t bytes;
    Shape much, in_pairs, slim;
  };
  const Shape none{};
  const Row rows[] = {
      {48 * 1024, none, none, none},
      {64 * 1024, none, none, none},                   // 7.5
      {96 * 1024, none, none, none},                   // 7.0
      {99 * 1024, {128, 3}, {128, 3}, {128, 3}},       // 8.6, 8.9, 12.x
      {147 * 1024 - 1, {128, 3}, {128, 3}, {128, 3}},  //
      {147 * 1024, {256, 3}, {256, 3}, {128, 3}},      // three stages of 48 KB, the rest
      {163 * 1024 - 1, {256, 3}, {256, 3}, {128, 3}},
      {163 * 1024, {256, 3}, {256, 3}, {128, 5}},        // 8.0: five stages of 32 KB, the rest
      {198 * 1024, {256, 3}, {256, 3}, {128, 5}},        // two small blocks, but not their
      {199 * 1024, {256, 3}, {128, 3, 2}, {128, 3, 2}},  // second KB for the system
      {227 * 1024, {256, 3}, {128, 3, 2}, {128, 3, 2}},  // 9.0, 10.x
      {1024 * 1024, {256, 3}, {128, 3, 2}, {128, 3, 2}},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(shape_for(granting(row.bytes), kMuch), row.much) << row.bytes;
    EXPECT_EQ(shape_for(granting(row.bytes), kMuchInPairs), row.in_pairs) << row.bytes;
    EXPECT_EQ(shape_for(granting(row.bytes), kSlim), row.slim) << row.bytes;
  }
}

TEST(Sm80Shapes, HaveAMultiprocessorForThemselvesWhereTilesAreFewOrOthersRunBeside) {
  EXPECT_EQ(shape_for(granting(227 * 1024), kLittle), (Shape{128, 5}));
  DeviceLimits shared = granting(227 * 1024);
  shared.is_shared = true;
  EXPECT_EQ(shape_for(shared, kMuchInPairs), (Shape{256, 3}));
  EXPECT_EQ(shape_for(shared, kSlim), (Shape{128, 5}));
  shared.shared_bytes_per_block = 295 * 1024 - 1;  // where two wide ones would share it
  EXPECT_EQ(shape_for(shared, kMuchInPairs), (Shape{256, 3}));
  shared.shared_bytes_per_block = 295 * 1024;
  EXPECT_EQ(shape_for(shared, kMuchInPairs), (Shape{128, 5}));
}

// 384 columns are two wide tiles, the second half empty, or three small ones.
TEST(Sm80Shapes, DoNotMultiplyWhatColumnsDoNotExist) {
  const auto shape = [](int64_t columns, const DeviceLimits& limits) {
    return shape_for(limits, {.num_columns = columns,
                              .wide_tiles = 1000 * base::ceil_div(columns, Wide::kTileColumns),
                              .small_tiles = 1000 * base::ceil_div(columns, Pair::kTileColumns)});
  };
  const DeviceLimits hopper = granting(227 * 1024);
  EXPECT_EQ(shape(384, hopper), (Shape{128, 3, 2}));
  EXPECT_EQ(shape(1408, hopper), (Shape{128, 3, 2}));
  EXPECT_EQ(shape(2880, hopper), (Shape{128, 3, 2}));  // a 23rd more
  EXPECT_EQ(shape(3456, hopper), (Shape{256, 3}));     // a 27th
  EXPECT_EQ(shape(512, hopper), (Shape{256, 3}));
  EXPECT_EQ(shape(384, granting(163 * 1024)), (Shape{256, 3})) << "no room for pairs";
}

TEST(Sm80Shapes, AlwaysFitWithWhatElseABlockHolds) {
  constexpr int64_t kSystemBytes = 1024;  // a block; a multiprocessor has as much more than a block
  constexpr int64_t kMostBytes = 300 * 1024;  // more than any GPU grants
  for (int64_t bytes = 0; bytes < kMostBytes; bytes += 512) {
    for (bool is_shared : {false, true}) {
      for (const Work& work : {kMuch, kMuchInPairs, kSlim, kLittle}) {
        DeviceLimits limits = granting(bytes);
        limits.is_shared = is_shared;
        const Shape shape = shape_for(limits, work);
        EXPECT_EQ(shape.stages > 0, cuda::sm80::has_shape(limits));
        if (shape.stages == 0) continue;
        const int64_t block = shape.stages * cuda::sm80::stage_bytes(shape.tile_columns) +
                              cuda::sm80::kOtherBytes + kSystemBytes;
        EXPECT_LE(shape.blocks_per_sm * block, bytes + kSystemBytes);
        // No second block comes where it is not counted on.
        if (is_shared) {
          EXPECT_GT(2 * block, bytes + kSystemBytes);
        }
      }
    }
  }
}

TEST(Sm80Shapes, LaunchNoMoreBlocksThanTheyHaveRoomFor) {
  const auto blocks = [](const Work& work, const Shape& shape) {
    return cuda::sm80::num_blocks_of(granting(0), work, shape);
  };
  EXPECT_EQ(blocks(kMuch, {256, 3}), 100);
  EXPECT_EQ(blocks(kMuch, {128, 3, 2}), 200);
  EXPECT_EQ(blocks(kLittle, {128, 5}), 100);
  EXPECT_EQ(blocks(kLittle, {256, 3}), 50);
  EXPECT_EQ(blocks(Work{}, {128, 5}), 1);
}

TensorView tensor(DType dtype, std::initializer_list<int64_t> sizes,
                  std::initializer_list<int64_t> strides = {}, uintptr_t address = 0) {
  return view(reinterpret_cast<const void*>(address), dtype, sizes, strides);
}

GmmProblem problem_of(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k,
                      DType dtype = DType::kBFloat16) {
  return {.tokens = tensor(dtype, {num_rows, k}),
          .weights = tensor(dtype, {num_experts, n, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = tensor(dtype, {num_rows, n})};
}

GmmWgradProblem wgrad_of(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k,
                         DType dtype = DType::kBFloat16) {
  return {.dy = tensor(dtype, {num_rows, n}),
          .tokens = tensor(dtype, {num_rows, k}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, num_experts),
          .out = tensor(dtype, {num_experts, n, k})};
}

class Sm80Plans : public testing::Test {
 protected:
  void SetUp() override {
    if (!cuda::sm80::is_built()) GTEST_SKIP() << "needs a build for architecture 8.0 or newer";
  }
  template <typename Problem>
  static GmmPlan plan(const Problem& problem, Path force = Path::kAuto,
                      const DeviceLimits& limits = kA100) {
    Target target = Target::cuda(limits);
    target.force_path = force;
    if constexpr (std::is_same_v<Problem, GmmProblem>)
      return plan_gmm(problem, target);
    else
      return plan_gmm_wgrad(problem, target);
  }
  template <typename Problem>
  static void expect_passed_over(const Problem& problem, std::string_view because) {
    const GmmPlan chosen = plan(problem);
    EXPECT_NE(chosen.path, Path::kSm80);
    EXPECT_NE(chosen.because.find(because), std::string_view::npos) << chosen.because;
    EXPECT_TRUE(refuses([&] { plan(problem, Path::kSm80); }, {std::string(because)}));
  }

 private:
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};

TEST_F(Sm80Plans, PrintTheirTileAndStages) {
  EXPECT_EQ(to_string(plan(problem_of(4096, 8, 4096, 512))),
            "gmm sm80 tile=128x256x64 stages=3 blocks<=108 workspace=128B");
  EXPECT_EQ(to_string(plan(wgrad_of(4096, 8, 4096, 512))),
            "gmm_wgrad sm80 tile=128x256x64 stages=3 blocks<=108 workspace=128B");
}

TEST_F(Sm80Plans, AreTheFirstChoiceFrom80OnExceptOnHopper) {
  for (const Gpu& gpu : kGpus) {
    const int capability = gpu.limits.compute_capability;
    if (capability == 90) continue;  // sm90/plan_test.cc
    const Path wanted = capability < 80 ? Path::kSimt : Path::kSm80;
    EXPECT_EQ(plan_gmm(problem_of(4096, 8, 4096, 512), gpu.target()).path, wanted) << gpu.name;
    EXPECT_EQ(plan_gmm_wgrad(wgrad_of(4096, 8, 4096, 512), gpu.target()).path, wanted);
  }
  EXPECT_EQ(plan(problem_of(64, 4, 64, 64), Path::kAuto, kBlackwell).path, Path::kSm80);
}

TEST_F(Sm80Plans, CanBeForcedOnHopperAndNotOnTuring) {
  EXPECT_EQ(plan(problem_of(64, 4, 64, 64), Path::kSm80, kGpus[4].limits).path, Path::kSm80);
  EXPECT_TRUE(refuses([] { plan(problem_of(64, 4, 64, 64), Path::kSm80, kGpus[1].limits); },
                      {"7.5", "needs 8.0 or more"}));
}

TEST_F(Sm80Plans, TakeSmallTilesWhereWideOnesWouldLeaveMultiprocessorsIdle) {
  EXPECT_EQ(plan(problem_of(65536, 8, 4096, 512)).policy.tile_n, Wide::kTileColumns);
  EXPECT_EQ(plan(problem_of(65536, 8, 128, 512)).policy.tile_n, Pair::kTileColumns);
  EXPECT_EQ(plan(problem_of(128, 1, 4096, 512)).policy.tile_n, Pair::kTileColumns);
  EXPECT_EQ(plan(wgrad_of(4096, 1, 1024, 1024)).policy.tile_n, Pair::kTileColumns);
  EXPECT_EQ(plan(wgrad_of(4096, 8, 1024, 1024)).policy.tile_n, Wide::kTileColumns);
  EXPECT_EQ(plan(wgrad_of(4096, 64, 4096, 128)).policy.tile_n, Pair::kTileColumns);
}

TEST_F(Sm80Plans, TakeSmallTilesInPairsForWgradOfSmallGroupsWhereThereIsRoom) {
  const auto print = [](const auto& problem) {
    return to_string(plan(problem, Path::kSm80, kBlackwell));
  };
  EXPECT_EQ(print(problem_of(65536, 8, 4096, 512)),
            "gmm sm80 tile=128x256x64 stages=3 blocks<=148 workspace=128B");
  EXPECT_EQ(print(wgrad_of(8 * 384, 8, 4096, 512)),
            "gmm_wgrad sm80 tile=128x256x64 stages=3 blocks<=148 workspace=128B");
  EXPECT_EQ(print(wgrad_of(8 * 383, 8, 4096, 512)),
            "gmm_wgrad sm80 tile=128x128x64 stages=3 blocks<=296 workspace=128B");
}

TEST_F(Sm80Plans, HaveHalfTheReductionStepForTf32) {
  GmmProblem problem = problem_of(4096, 8, 4096, 512, DType::kFloat32);
  problem.allow_tf32 = true;
  EXPECT_EQ(to_string(plan(problem)),
            "gmm sm80 tile=128x256x32 stages=3 blocks<=108 workspace=128B");
}

TEST_F(Sm80Plans, TakeNoMoreMultiprocessorsThanTheyMay) {
  Target target = Target::cuda(kA100);
  for (const auto& [most, blocks] : {std::pair{0, 108}, {1, 1}, {100, 100}, {1000, 108}}) {
    target.max_sms = most;
    EXPECT_EQ(plan_gmm(problem_of(65536, 8, 4096, 512), target).num_blocks, blocks) << most;
    EXPECT_EQ(plan_gmm_wgrad(wgrad_of(65536, 8, 4096, 512), target).num_blocks, blocks) << most;
  }
  target = Target::cuda(kBlackwell);
  for (const auto& [most, blocks] : {std::pair{0, 296}, {1, 1}, {147, 147}, {148, 296}}) {
    target.max_sms = most;
    EXPECT_EQ(plan_gmm_wgrad(wgrad_of(2048, 8, 4096, 512), target).num_blocks, blocks) << most;
  }
}

TEST_F(Sm80Plans, HoldForEveryLayoutAndOutputThatTheKernelsKnow) {
  for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    GmmProblem problem = problem_of(4096, 8, 1000, 520, dtype);
    problem.weights = transposed(tensor(dtype, {8, 520, 1000}));
    EXPECT_EQ(plan(problem).path, Path::kSm80);
    problem.out.dtype = DType::kFloat32;
    EXPECT_EQ(plan(problem).path, Path::kSm80);
    GmmWgradProblem wgrad = wgrad_of(4096, 8, 1000, 520, dtype);
    wgrad.out = transposed(tensor(dtype, {8, 520, 1000}));
    EXPECT_EQ(plan(wgrad).path, Path::kSm80);
    wgrad.accumulate = true;
    EXPECT_EQ(plan(wgrad).path, Path::kSm80);
  }
  for (int64_t n : {1, 7, 129}) EXPECT_EQ(plan(problem_of(64, 4, n, 64)).path, Path::kSm80) << n;
  EXPECT_EQ(plan(problem_of(4096, 4096, 256, 64)).path, Path::kSm80);
}

TEST_F(Sm80Plans, SayWhyTheyFallBack) {
  expect_passed_over(problem_of(64, 4, 64, 64, DType::kFloat32), "may not be rounded to tf32");
  expect_passed_over(problem_of(64, 4, 64, 0), "K is 0");
  expect_passed_over(problem_of(64, 0, 64, 64), "there are no groups");
  expect_passed_over(problem_of(64, 4, 64, 9), "the distance of a's rows");
  GmmProblem problem = problem_of(64, 4, 9, 64);
  problem.weights = transposed(tensor(DType::kBFloat16, {4, 64, 9}));
  expect_passed_over(problem, "b has no contiguous dimension");
  problem = problem_of(64, 4, 64, 64);
  problem.tokens = tensor(DType::kBFloat16, {64, 64}, {}, 8);
  expect_passed_over(problem, "a's address");
  problem.tokens = tensor(DType::kBFloat16, {64, 64}, {1, 64});
  expect_passed_over(problem, "a's rows are not contiguous");
  problem = problem_of(64, 4, 64, 7);
  problem.tokens = tensor(DType::kBFloat16, {64, 7}, {8, 1});
  expect_passed_over(problem, "a row of a is not a multiple of 16 bytes");

  expect_passed_over(wgrad_of(64, 4, 64, 64, DType::kFloat32), "may not be rounded to tf32");
  expect_passed_over(wgrad_of(0, 4, 64, 64), "there are no rows");
  expect_passed_over(wgrad_of(64, 4, 9, 64), "the distance of dy's rows");
  expect_passed_over(wgrad_of(64, 4, 64, 9), "the distance of a's rows");
}

TEST_F(Sm80Plans, RefuseDevicesThatGrantTooLittleSharedMemory) {
  const DeviceLimits small{
      .compute_capability = 80, .num_sms = 108, .shared_bytes_per_block = 65536};
  EXPECT_NE(plan(problem_of(64, 4, 64, 64), Path::kAuto, small).because.find("shared memory"),
            std::string_view::npos);
}

}  // namespace
}  // namespace gg::test
