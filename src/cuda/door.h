// The CUDA backend's door: what the core may call. Host C++ only: no CUDA type
// crosses it. src/cuda/absent.cc answers for builds without CUDA.
#pragma once

#include <string_view>

#include "grouped_gemm/gmm.h"
#include "grouped_gemm/permute.h"
#include "grouped_gemm/route.h"
#include "grouped_gemm/routing_map.h"
#include "grouped_gemm/sinkhorn.h"
#include "grouped_gemm/sort_chunks.h"
#include "grouped_gemm/unpermute.h"

namespace gg::cuda {

// Facts about this build and machine; they change nothing and allocate nothing.
const char* built_architectures();             // "" without CUDA
const char* built_toolkit();                   // "13.0"
int driver_version();                          // 13000 for 13.0; 0 where there is no driver
int num_devices();                             // 0 where there is none, or no driver
DeviceLimits device_limits(int device_index);  // throws Error where it cannot be used

// Why a path cannot run a problem on a device of its compute capability: a
// clause that lives on; empty where it can. Reads values only.
std::string_view gmm_refusal(Path path, const GmmProblem& problem, const DeviceLimits& limits);
std::string_view gmm_refusal(Path path, const GmmWgradProblem& problem, const DeviceLimits& limits);

// Completes a plan whose path is one of CUDA's: policy, grid, workspace.
void plan_permute(PermutePlan& plan, const PermuteProblem& problem, const DeviceLimits& limits);
void plan_unpermute(UnpermutePlan& plan, const UnpermuteProblem& problem);
void plan_unpermute_bwd(UnpermutePlan& plan, const UnpermuteBwdProblem& problem);
void plan_sort_chunks(SortChunksPlan& plan, const SortChunksProblem& problem);
void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits);
void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits);
void plan_sinkhorn(SinkhornPlan& plan, const SinkhornProblem& problem, const DeviceLimits& limits);
void plan_route(RoutePlan& plan, const RouteProblem& problem, const DeviceLimits& limits);
void plan_route_bwd(RoutePlan& plan, const RouteBwdProblem& problem);

// Launch. Nothing here allocates or waits.
void permute(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
             Stream stream);
void permute_probs_bwd(const PermuteProbsBwdProblem& problem, Stream stream);
void unpermute(const UnpermutePlan& plan, const UnpermuteProblem& problem, Stream stream);
void unpermute_bwd(const UnpermutePlan& plan, const UnpermuteBwdProblem& problem,
                   Workspace workspace, Stream stream);
void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream);
void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream);
void sort_chunks(const SortChunksPlan& plan, const SortChunksProblem& problem, Workspace workspace,
                 Stream stream);
void routing_map(const RoutingMapProblem& problem, Stream stream);
void sinkhorn(const SinkhornPlan& plan, const SinkhornProblem& problem, Workspace workspace,
              Stream stream);
void route(const RoutePlan& plan, const RouteProblem& problem, Workspace workspace, Stream stream);
void route_bwd(const RoutePlan& plan, const RouteBwdProblem& problem, Stream stream);

}  // namespace gg::cuda
