// The CUDA door of a build without CUDA: says so, and what would help.
#include "base/check.h"
#include "cuda/door.h"

namespace gg::cuda {
namespace {

[[noreturn]] void refuse(const char* op) {
  throw Error(base::concat(
      op,
      ": got a CUDA device; needs a build with CUDA, and this one has the CPU part only; "
      "build it where nvcc is found, with GG_CUDA=ON"));
}

}  // namespace

const char* built_architectures() { return ""; }
const char* built_toolkit() { return ""; }
int driver_version() { return 0; }
int num_devices() { return 0; }
DeviceLimits device_limits(int) { refuse("device_limits"); }

std::string_view gmm_refusal(Path, const GmmProblem&, const DeviceLimits&) { refuse("gmm"); }
std::string_view gmm_refusal(Path, const GmmWgradProblem&, const DeviceLimits&) {
  refuse("gmm_wgrad");
}
void plan_permute(PermutePlan&, const PermuteProblem&, const DeviceLimits&) { refuse("permute"); }
void plan_unpermute(UnpermutePlan&, const UnpermuteProblem&) { refuse("unpermute"); }
void plan_unpermute_bwd(UnpermutePlan&, const UnpermuteBwdProblem&) { refuse("unpermute_bwd"); }
void plan_sort_chunks(SortChunksPlan&, const SortChunksProblem&) { refuse("sort_chunks"); }
void plan_gmm(GmmPlan&, const GmmProblem&, const DeviceLimits&) { refuse("gmm"); }
void plan_gmm_wgrad(GmmPlan&, const GmmWgradProblem&, const DeviceLimits&) { refuse("gmm_wgrad"); }
void plan_sinkhorn(SinkhornPlan&, const SinkhornProblem&, const DeviceLimits&) {
  refuse("sinkhorn");
}
void plan_route(RoutePlan&, const RouteProblem&, const DeviceLimits&) { refuse("route"); }
void plan_route_bwd(RoutePlan&, const RouteBwdProblem&) { refuse("route_bwd"); }

void permute(const PermutePlan&, const PermuteProblem&, Workspace, Stream) { refuse("permute"); }
void permute_probs_bwd(const PermuteProbsBwdProblem&, Stream) { refuse("permute_probs_bwd"); }
void unpermute(const UnpermutePlan&, const UnpermuteProblem&, Stream) { refuse("unpermute"); }
void unpermute_bwd(const UnpermutePlan&, const UnpermuteBwdProblem&, Workspace, Stream) {
  refuse("unpermute_bwd");
}
void gmm(const GmmPlan&, const GmmProblem&, Workspace, Stream) { refuse("gmm"); }
void gmm_wgrad(const GmmPlan&, const GmmWgradProblem&, Workspace, Stream) { refuse("gmm_wgrad"); }
void sort_chunks(const SortChunksPlan&, const SortChunksProblem&, Workspace, Stream) {
  refuse("sort_chunks");
}
void routing_map(const RoutingMapProblem&, Stream) { refuse("routing_map"); }
void sinkhorn(const SinkhornPlan&, const SinkhornProblem&, Workspace, Stream) {
  refuse("sinkhorn");
}
void route(const RoutePlan&, const RouteProblem&, Workspace, Stream) { refuse("route"); }
void route_bwd(const RoutePlan&, const RouteBwdProblem&, Stream) { refuse("route_bwd"); }

}  // namespace gg::cuda
