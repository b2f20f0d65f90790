// Plan and run in one call, for any operator, in a workspace that is exactly as
// large as the plan says and guarded on both sides.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>

#include "grouped_gemm/error.h"
#include "grouped_gemm/gmm.h"
#include "grouped_gemm/permute.h"
#include "grouped_gemm/route.h"
#include "grouped_gemm/routing_map.h"
#include "grouped_gemm/sinkhorn.h"
#include "grouped_gemm/sort_chunks.h"
#include "grouped_gemm/unpermute.h"
#include "support/tensor.h"

namespace gg::test {

inline auto plan_for(const PermuteProblem& problem, const Target& target) {
  return plan_permute(problem, target);
}
inline auto plan_for(const PermuteProbsBwdProblem& problem, const Target& target) {
  return plan_permute_probs_bwd(problem, target);
}
inline auto plan_for(const UnpermuteProblem& problem, const Target& target) {
  return plan_unpermute(problem, target);
}
inline auto plan_for(const UnpermuteBwdProblem& problem, const Target& target) {
  return plan_unpermute_bwd(problem, target);
}
inline auto plan_for(const GmmProblem& problem, const Target& target) {
  return plan_gmm(problem, target);
}
inline auto plan_for(const GmmWgradProblem& problem, const Target& target) {
  return plan_gmm_wgrad(problem, target);
}
inline auto plan_for(const RoutingMapProblem& problem, const Target& target) {
  return plan_routing_map(problem, target);
}
inline auto plan_for(const SortChunksProblem& problem, const Target& target) {
  return plan_sort_chunks(problem, target);
}
inline auto plan_for(const SinkhornProblem& problem, const Target& target) {
  return plan_sinkhorn(problem, target);
}
inline auto plan_for(const RouteProblem& problem, const Target& target) {
  return plan_route(problem, target);
}
inline auto plan_for(const RouteBwdProblem& problem, const Target& target) {
  return plan_route_bwd(problem, target);
}

inline Target cpu_target(Path path) {
  Target target = Target::cpu();
  target.force_path = path;
  return target;
}

inline constexpr Path kCpuPaths[] = {Path::kReference, Path::kParallel};

template <typename Problem>
void run_on_cpu(const Problem& problem, Path path, Stream stream = {}) {
  const auto plan = plan_for(problem, cpu_target(path));
  ASSERT_EQ(plan.path, path);
  const Tensor workspace(DType::kFloat8E4M3, {plan.workspace_bytes});
  run(plan, problem, Workspace{workspace.view().data, plan.workspace_bytes}, stream);
  EXPECT_TRUE(workspace.guards_intact()) << "the workspace of " << to_string(plan);
}

// Sets an environment variable, or removes it (nullptr), until the end of the scope.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    assign(value);
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ~ScopedEnvironment() { assign(old_ ? old_->c_str() : nullptr); }

 private:
  void assign(const char* value) { value != nullptr ? setenv(name_, value, 1) : unsetenv(name_); }

  const char* name_;
  std::optional<std::string> old_;
};

// The text of the gg::Error that `call` throws; "" if it throws none.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// `call` throws a gg::Error that reads "operator: argument got X; needs Y" and
// has all of `parts` in it.
template <typename Call>
testing::AssertionResult refuses(const Call& call, std::initializer_list<std::string> parts) {
  const std::string text = error_of(call);
  if (text.empty()) return testing::AssertionFailure() << "nothing was refused";
  std::initializer_list<std::string> grammar = {": ", "got ", "; needs "};
  for (const auto& wanted : {grammar, parts}) {
    for (const std::string& part : wanted) {
      if (text.find(part) == std::string::npos) {
        return testing::AssertionFailure() << "'" << part << "' is not in: " << text;
      }
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace gg::test
