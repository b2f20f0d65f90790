// Which implementation runs: by device, by force, by environment.
#include "core/path.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "support/run.h"

namespace gg {
namespace {

using core::choose_path;
using test::cpu_target;
using test::refuses;
using test::ScopedEnvironment;

constexpr auto kMenu = {Path::kParallel, Path::kReference, Path::kPortable};

Target cuda_target(int compute_capability, Path force = Path::kAuto) {
  Target target = Target::cuda(DeviceLimits{compute_capability, 100, 98304});
  target.force_path = force;
  return target;
}

class PathChoice : public testing::Test {
 protected:
  ScopedEnvironment nothing_forced{"GG_FORCE_PATH", nullptr};
};

TEST_F(PathChoice, TakesTheFirstPathOfTheMenuThatRunsOnTheTarget) {
  EXPECT_EQ(choose_path("op", Target::cpu(), kMenu), Path::kParallel);
  EXPECT_EQ(choose_path("op", Target::cpu(), std::array{Path::kReference, Path::kParallel}),
            Path::kReference);
  EXPECT_EQ(choose_path("op", cuda_target(80), kMenu), Path::kPortable);
}

TEST_F(PathChoice, RunsThePortablePathOnEveryGpuSinceVolta) {
  for (int compute_capability : {70, 72, 75, 80, 86, 89, 90, 100, 120}) {
    EXPECT_EQ(choose_path("op", cuda_target(compute_capability), kMenu), Path::kPortable);
  }
}

TEST_F(PathChoice, RefusesOlderGpusInWords) {
  EXPECT_TRUE(refuses([] { choose_path("gmm", cuda_target(60), kMenu); },
                      {"gmm: ", "CUDA device of compute capability 6.0", "needs 7.0 or more",
                       "built for: ", "run on a newer GPU or on the CPU"}));
}

TEST_F(PathChoice, ObeysATargetThatForcesAPath) {
  EXPECT_EQ(choose_path("op", cpu_target(Path::kReference), kMenu), Path::kReference);
  EXPECT_EQ(choose_path("op", cuda_target(90, Path::kPortable), kMenu), Path::kPortable);
}

TEST_F(PathChoice, RefusesAForcedPathThatTheDeviceCannotRun) {
  EXPECT_TRUE(refuses([] { choose_path("permute", cuda_target(61, Path::kPortable), kMenu); },
                      {"permute: forced path portable", "6.1", "needs 7.0", "GG_FORCE_PATH"}));
}

TEST_F(PathChoice, IgnoresAForcedPathOfTheOtherKindOfDevice) {
  EXPECT_EQ(choose_path("op", cpu_target(Path::kPortable), kMenu), Path::kParallel);
  EXPECT_EQ(choose_path("op", cuda_target(80, Path::kReference), kMenu), Path::kPortable);
}

TEST_F(PathChoice, IgnoresAForcedPathThatTheOperatorDoesNotHave) {
  EXPECT_EQ(choose_path("op", cpu_target(Path::kReference), std::array{Path::kParallel}),
            Path::kParallel);
}

TEST_F(PathChoice, ObeysTheEnvironmentVariable) {
  const ScopedEnvironment forced("GG_FORCE_PATH", "reference");
  EXPECT_EQ(choose_path("op", Target::cpu(), kMenu), Path::kReference);
  EXPECT_EQ(choose_path("op", cuda_target(80), kMenu), Path::kPortable)
      << "one variable may force the CPU's path while the GPU goes on";
}

TEST_F(PathChoice, LetsTheTargetOverrideTheEnvironment) {
  const ScopedEnvironment forced("GG_FORCE_PATH", "reference");
  EXPECT_EQ(choose_path("op", cpu_target(Path::kParallel), kMenu), Path::kParallel);
}

// The menu of a grouped product, and a Turing whose own path refuses the problem.
constexpr auto kGemmMenu = {Path::kSm90, Path::kSm75, Path::kSm70, Path::kPortable};
std::string_view not_float16(Path path) {
  if (path == Path::kSm75) return "the operands are not float16";
  return path == Path::kSm70 ? "they are not, still" : "";
}

TEST_F(PathChoice, PassesOverWhatIsRefusedAndSaysWhyTheFirstWas) {
  std::string_view because;
  EXPECT_EQ(choose_path("op", cuda_target(75), kGemmMenu, not_float16, &because), Path::kPortable);
  EXPECT_EQ(because, "the operands are not float16");
  because = {};
  EXPECT_EQ(choose_path("op", cuda_target(90), kGemmMenu, not_float16, &because), Path::kSm90);
  EXPECT_EQ(because, "");
}

TEST_F(PathChoice, AsksNoPathTwiceAndNoneBehindTheOneItTakesOrThatTheDeviceLacks) {
  std::vector<Path> asked;
  const auto record = [&](Path path) {
    asked.push_back(path);
    return not_float16(path);
  };
  choose_path("op", cuda_target(90), kGemmMenu, record);
  EXPECT_EQ(asked, std::vector{Path::kSm90});
  asked.clear();
  choose_path("op", cuda_target(75), kGemmMenu, record);
  EXPECT_EQ(asked, (std::vector{Path::kSm75, Path::kSm70, Path::kPortable}));
  asked.clear();
  choose_path("op", cuda_target(90, Path::kPortable), kGemmMenu, record);
  EXPECT_EQ(asked, std::vector{Path::kPortable});
  asked.clear();
  EXPECT_TRUE(refuses([&] { choose_path("op", cuda_target(75, Path::kSm75), kGemmMenu, record); },
                      {"cannot run"}));
  EXPECT_EQ(asked, std::vector{Path::kSm75});
}

TEST_F(PathChoice, GoesOnDownTheMenuFromAPathThatTheEnvironmentForcesAndTheProblemDoesNotSuit) {
  const ScopedEnvironment forced("GG_FORCE_PATH", "sm75");
  std::string_view because;
  EXPECT_EQ(choose_path("op", cuda_target(90), kGemmMenu, {}, &because), Path::kSm75);
  EXPECT_EQ(because, "");
  EXPECT_EQ(choose_path("op", cuda_target(90), kGemmMenu, not_float16, &because), Path::kPortable)
      << "not up to the better path, which the variable leaves out";
  EXPECT_EQ(because, "the operands are not float16");
  EXPECT_TRUE(refuses([] { choose_path("op", cuda_target(70), kGemmMenu); },
                      {"forced path sm75", "7.0", "needs 7.5 or more"}));
}

TEST_F(PathChoice, InsistsOnAPathThatTheTargetForces) {
  EXPECT_TRUE(
      refuses([] { choose_path("op", cuda_target(75, Path::kSm75), kGemmMenu, not_float16); },
              {"forced path sm75", "cannot run: the operands are not float16", "force_path"}));
}

TEST_F(PathChoice, TreatsAnEmptyVariableAndAutoAsNoForce) {
  for (const char* value : {"", "auto"}) {
    const ScopedEnvironment forced("GG_FORCE_PATH", value);
    EXPECT_EQ(choose_path("op", Target::cpu(), kMenu), Path::kParallel) << "'" << value << "'";
  }
}

TEST_F(PathChoice, RefusesAnUnknownNameAndListsTheKnownOnes) {
  for (const char* value : {"fastest", "Reference", "reference ", "parallel,reference"}) {
    const ScopedEnvironment forced("GG_FORCE_PATH", value);
    EXPECT_TRUE(refuses([] { choose_path("sinkhorn", Target::cpu(), kMenu); },
                        {"sinkhorn: ", "GG_FORCE_PATH got '" + std::string(value) + "'",
                         "auto, reference, parallel, portable", "unset it"}));
  }
}

TEST_F(PathChoice, ReachesEveryOperatorsPlan) {
  const ScopedEnvironment forced("GG_FORCE_PATH", "reference");
  float data[4] = {};
  const TensorView cost = view(data, DType::kFloat32, {2, 1});
  const TensorView output = view(data + 2, DType::kFloat32, {2, 1});
  const SinkhornProblem problem{.cost = cost, .output = output};
  EXPECT_EQ(plan_sinkhorn(problem, Target::cpu()).path, Path::kReference);
}

TEST(Paths, HaveTheNamesThatTheEnvironmentVariableTakes) {
  EXPECT_STREQ(to_string(Path::kAuto), "auto");
  EXPECT_STREQ(to_string(Path::kReference), "reference");
  EXPECT_STREQ(to_string(Path::kParallel), "parallel");
  EXPECT_STREQ(to_string(Path::kPortable), "portable");
  EXPECT_STREQ(to_string(Path::kSm70), "sm70");
  EXPECT_STREQ(to_string(Path::kSm75), "sm75");
  EXPECT_STREQ(to_string(Path::kSm90), "sm90");
}

TEST(Targets, AreTheCpuUnlessTheySayOtherwise) {
  EXPECT_EQ(Target::cpu().kind, Target::Kind::kCpu);
  EXPECT_EQ(Target{}.force_path, Path::kAuto);
  const DeviceLimits limits{90, 132, 232448};
  EXPECT_EQ(Target::cuda(limits).kind, Target::Kind::kCuda);
  EXPECT_EQ(Target::cuda(limits).limits, limits);
}

TEST(Targets, OnADeviceThatIsNotThereAreRefusedInWords) {
  EXPECT_TRUE(refuses([] { Target::cuda(4711); }, {"device_limits: "}));
}

TEST(BuildsWithoutCuda, SayWhatIsMissingAndWhatWouldHelp) {
  if (*built_cuda_architectures() != '\0') GTEST_SKIP() << "this build has CUDA";
  EXPECT_TRUE(
      refuses([] { Target::cuda(0); }, {"needs a build with CUDA", "CPU part only", "GG_CUDA=ON"}));
  float data[4] = {};
  const SinkhornProblem problem{.cost = view(data, DType::kFloat32, {2, 1}),
                                .output = view(data + 2, DType::kFloat32, {2, 1})};
  EXPECT_TRUE(refuses([&] { plan_sinkhorn(problem, cuda_target(90)); },
                      {"sinkhorn: got a CUDA device", "GG_CUDA=ON"}));
}

}  // namespace
}  // namespace gg
