// gmm and gmm_wgrad behind the CUDA door: each path to its own folder.
#include "base/check.h"
#include "cuda/door.h"
#include "cuda/gemm/portable/door.h"
#include "cuda/gemm/simt/door.h"
#include "cuda/gemm/sm70/door.h"
#include "cuda/gemm/sm80/door.h"
#include "cuda/gemm/sm90/door.h"

namespace gg::cuda {
namespace {

template <typename Problem>
std::string_view runs_anything(const Problem&, const DeviceLimits&) {
  return {};
}

// Volta's and Turing's paths share a folder.
template <Path kPath, typename Problem>
std::string_view sm70_refusal(const Problem& problem, const DeviceLimits& limits) {
  return sm70::refusal(kPath, problem, limits);
}

// The functions of a path's door.h.
struct PathFunctions {
  Path path;
  std::string_view (*refusal)(const GmmProblem&, const DeviceLimits&);
  std::string_view (*wgrad_refusal)(const GmmWgradProblem&, const DeviceLimits&);
  void (*plan_gmm)(GmmPlan&, const GmmProblem&, const DeviceLimits&);
  void (*plan_gmm_wgrad)(GmmPlan&, const GmmWgradProblem&, const DeviceLimits&);
  void (*gmm)(const GmmPlan&, const GmmProblem&, Workspace, Stream);
  void (*gmm_wgrad)(const GmmPlan&, const GmmWgradProblem&, Workspace, Stream);
};

constexpr PathFunctions kPaths[] = {
    {Path::kSm90, sm90::refusal, sm90::refusal, sm90::plan_gmm, sm90::plan_gmm_wgrad, sm90::gmm,
     sm90::gmm_wgrad},
    {Path::kSm80, sm80::refusal, sm80::refusal, sm80::plan_gmm, sm80::plan_gmm_wgrad, sm80::gmm,
     sm80::gmm_wgrad},
    {Path::kSm75, sm70_refusal<Path::kSm75>, sm70_refusal<Path::kSm75>, sm70::plan_gmm,
     sm70::plan_gmm_wgrad, sm70::gmm, sm70::gmm_wgrad},
    {Path::kSm70, sm70_refusal<Path::kSm70>, sm70_refusal<Path::kSm70>, sm70::plan_gmm,
     sm70::plan_gmm_wgrad, sm70::gmm, sm70::gmm_wgrad},
    {Path::kSimt, simt::refusal, simt::refusal, simt::plan_gmm, simt::plan_gmm_wgrad, simt::gmm,
     simt::gmm_wgrad},
    {Path::kPortable, runs_anything, runs_anything, portable::plan_gmm, portable::plan_gmm_wgrad,
     portable::gmm, portable::gmm_wgrad},
};

const PathFunctions& functions_of(Path path) {
  for (const PathFunctions& row : kPaths) {
    if (row.path == path) return row;
  }
  throw Error(base::concat("gmm: no CUDA kernels of path ", to_string(path)));
}

}  // namespace

std::string_view gmm_refusal(Path path, const GmmProblem& problem, const DeviceLimits& limits) {
  return functions_of(path).refusal(problem, limits);
}

std::string_view gmm_refusal(Path path, const GmmWgradProblem& problem,
                             const DeviceLimits& limits) {
  return functions_of(path).wgrad_refusal(problem, limits);
}

void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  functions_of(plan.path).plan_gmm(plan, problem, limits);
}

void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits) {
  functions_of(plan.path).plan_gmm_wgrad(plan, problem, limits);
}

void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  functions_of(plan.path).gmm(plan, problem, workspace, stream);
}

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream) {
  functions_of(plan.path).gmm_wgrad(plan, problem, workspace, stream);
}

}  // namespace gg::cuda
