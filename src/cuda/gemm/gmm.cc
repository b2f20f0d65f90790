// gmm and gmm_wgrad behind the CUDA door: each path to its own folder.
#include "cuda/door.h"
#include "cuda/gemm/portable/door.h"
#include "cuda/gemm/sm90/door.h"

namespace gg::cuda {

std::string_view gmm_refusal(Path path, const GmmProblem& problem, const DeviceLimits& limits) {
  return path == Path::kSm90 ? sm90::refusal(problem, limits) : std::string_view{};
}

std::string_view gmm_refusal(Path path, const GmmWgradProblem& problem,
                             const DeviceLimits& limits) {
  return path == Path::kSm90 ? sm90::refusal(problem, limits) : std::string_view{};
}

void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  if (plan.path == Path::kSm90) {
    sm90::plan_gmm(plan, problem, limits);
  } else {
    portable::plan_gmm(plan, problem, limits);
  }
}

void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits) {
  if (plan.path == Path::kSm90) {
    sm90::plan_gmm_wgrad(plan, problem, limits);
  } else {
    portable::plan_gmm_wgrad(plan, problem, limits);
  }
}

void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  if (plan.path == Path::kSm90) {
    sm90::gmm(plan, problem, workspace, stream);
  } else {
    portable::gmm(plan, problem, workspace, stream);
  }
}

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream) {
  if (plan.path == Path::kSm90) {
    sm90::gmm_wgrad(plan, problem, workspace, stream);
  } else {
    portable::gmm_wgrad(plan, problem, workspace, stream);
  }
}

}  // namespace gg::cuda
