// Which path gmm and gmm_wgrad take on each generation of GPUs for each dtype, and why no
// better one. Needs no GPU; what this build has no code for is passed over.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cuda/common/architectures.h"
#include "cuda/gemm/sm80/door.h"
#include "cuda/support/limits.h"
#include "support/shapes.h"

namespace gg::test {
namespace {

GmmProblem problem_of(DType dtype) {
  return {.tokens = view(nullptr, dtype, {4096, 512}),
          .weights = view(nullptr, dtype, {8, 1024, 512}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, 8),
          .out = view(nullptr, dtype, {4096, 1024})};
}

GmmWgradProblem wgrad_of(DType dtype) {
  return {.dy = view(nullptr, dtype, {4096, 1024}),
          .tokens = view(nullptr, dtype, {4096, 512}),
          .groups = GroupSizes::on_device_sizes(nullptr, DType::kInt64, 8),
          .out = view(nullptr, dtype, {8, 1024, 512})};
}

// Of the architectures built, those of compute capability [first, last].
std::vector<std::string> built_between(int first, int last) {
  std::vector<std::string> found;
  const std::string text = std::string(built_cuda_architectures()) + ";";
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find(';', at);
    const std::string entry = text.substr(at, end - at);
    const int number = std::atoi(entry.c_str());
    if (number >= first && number <= last) found.push_back(entry);
    at = end + 1;
  }
  return found;
}

// Whether this build has the path's code for a device: each folder is compiled for the
// architectures of its own generation (CMakeLists.txt).
bool is_built(Path path, int compute_capability) {
  if (path == Path::kSm80) return cuda::sm80::is_built();
  std::vector<std::string> entries;
  if (path == Path::kSm90) entries = built_between(90, 90);
  if (path == Path::kSm75) entries = built_between(75, 79);
  if (path == Path::kSm70) {
    entries = built_between(70, 74);
    if (entries.empty()) {
      for (const std::string& entry : built_between(75, 79)) {
        if (entry.ends_with("+PTX")) entries.push_back(entry);
      }
    }
  }
  for (const std::string& entry : entries) {
    if (cuda::is_code_for(entry, compute_capability)) return true;
  }
  return path == Path::kPortable || path == Path::kSimt;
}

struct Choice {
  DType dtype;
  std::vector<Path> best_first;  // of a build with every architecture
};

std::vector<Choice> choices_of(int compute_capability) {
  std::vector<Path> half = {Path::kSm70, Path::kSimt}, bfloat = {Path::kSimt};
  const auto put_first = [](std::vector<Path>& paths, Path path) {
    paths.insert(paths.begin(), path);
  };
  if (compute_capability >= 75) put_first(half, Path::kSm75);
  for (const Path path : {Path::kSm80, Path::kSm90}) {
    if (compute_capability < 80 || (path == Path::kSm90 && compute_capability != 90)) continue;
    put_first(half, path);
    put_first(bfloat, path);
  }
  return {{DType::kFloat16, half}, {DType::kBFloat16, bfloat}, {DType::kFloat32, {Path::kSimt}}};
}

class GmmPaths : public OnEveryGpu {};
INSTANTIATE_TEST_SUITE_P(, GmmPaths, testing::ValuesIn(kGpus), gpu_name);

TEST_P(GmmPaths, AreTheBestThatTheGenerationAndTheBuildHaveForTheDtype) {
  const int capability = GetParam().limits.compute_capability;
  for (const Choice& choice : choices_of(capability)) {
    SCOPED_TRACE(to_string(choice.dtype));
    size_t best = 0;
    while (!is_built(choice.best_first[best], capability)) ++best;
    const GmmPlan plan = plan_gmm(problem_of(choice.dtype), GetParam().target());
    const GmmPlan wgrad = plan_gmm_wgrad(wgrad_of(choice.dtype), GetParam().target());
    EXPECT_EQ(plan.path, choice.best_first[best]) << to_string(plan);
    EXPECT_EQ(wgrad.path, choice.best_first[best]) << to_string(wgrad);
    if (plan.path == Path::kSimt) {
      EXPECT_NE(plan.because, "") << "every generation has a path for some dtype";
      EXPECT_NE(wgrad.because, "");
    }
  }
}

TEST_P(GmmPaths, SayThatTheDtypeIsTheReason) {
  const GmmPlan plan = plan_gmm(problem_of(DType::kFloat32), GetParam().target());
  EXPECT_EQ(plan.path, Path::kSimt);
  const int capability = GetParam().limits.compute_capability;
  const Path best = capability == 90 ? Path::kSm90 : Path::kSm80;
  std::string_view reason = "the operands are not float16";
  if (capability >= 80) {
    reason = is_built(best, capability) ? "the operands are float32" : "this build has no kernels";
  }
  EXPECT_EQ(plan.because.substr(0, reason.size()), reason);
}

TEST_P(GmmPaths, ThatTheEnvironmentForcesAreTheBestThereIsAndRefusalsGoOn) {
  for (const Path path : {Path::kSm75, Path::kSm70, Path::kPortable}) {
    const int capability = GetParam().limits.compute_capability;
    if (path == Path::kSm75 && capability < 75) continue;
    const ScopedEnvironment forced("GG_FORCE_PATH", to_string(path));
    const GmmPlan plan = plan_gmm(problem_of(DType::kFloat16), GetParam().target());
    EXPECT_EQ(plan.path == path, is_built(path, capability)) << to_string(plan);
    EXPECT_EQ(plan_gmm(problem_of(DType::kBFloat16), GetParam().target()).path,
              path == Path::kPortable ? path : Path::kSimt);
    Target target = GetParam().target();
    target.force_path = path;
    if (path != Path::kPortable) {
      EXPECT_TRUE(refuses([&] { plan_gmm(problem_of(DType::kBFloat16), target); },
                          {"forced path", "the operands are not float16"}));
    }
  }
}

TEST(GmmPathsOfVolta, DoNotIncludeTurings) {
  Target volta = kGpus[0].target();
  volta.force_path = Path::kSm75;
  EXPECT_TRUE(refuses([&] { plan_gmm(problem_of(DType::kFloat16), volta); },
                      {"forced path sm75", "7.0", "needs 7.5 or more"}));
}

}  // namespace
}  // namespace gg::test
