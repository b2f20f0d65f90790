// The CPU backend's door: what the core may call. Each function assumes a
// problem that its plan has accepted. Reference loops (Path::kReference) are
// the meaning of an operator; the parallel versions must agree with them.
#pragma once

#include "grouped_gemm/gmm.h"
#include "grouped_gemm/permute.h"
#include "grouped_gemm/route.h"
#include "grouped_gemm/routing_map.h"
#include "grouped_gemm/sinkhorn.h"
#include "grouped_gemm/sort_chunks.h"
#include "grouped_gemm/unpermute.h"

namespace gg::cpu {

int64_t permute_workspace_bytes(const PermuteProblem& problem);
void permute(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
             Stream stream);
void permute_probs_bwd(const PermuteProbsBwdProblem& problem);
void unpermute(const UnpermutePlan& plan, const UnpermuteProblem& problem, Stream stream);
int64_t unpermute_bwd_workspace_bytes(const UnpermuteBwdProblem& problem);
void unpermute_bwd(const UnpermutePlan& plan, const UnpermuteBwdProblem& problem,
                   Workspace workspace, Stream stream);
void gmm(const GmmPlan& plan, const GmmProblem& problem, Stream stream);
void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Stream stream);
void plan_route(RoutePlan& plan, const RouteProblem& problem);
void route(const RoutePlan& plan, const RouteProblem& problem, Workspace workspace, Stream stream);
void route_bwd(const RoutePlan& plan, const RouteBwdProblem& problem, Stream stream);
void routing_map(const RoutingMapPlan& plan, const RoutingMapProblem& problem, Stream stream);
int64_t sort_chunks_workspace_bytes(const SortChunksProblem& problem);
void sort_chunks(const SortChunksPlan& plan, const SortChunksProblem& problem, Workspace workspace,
                 Stream stream);
int64_t sinkhorn_workspace_bytes(const SinkhornProblem& problem);
void sinkhorn(const SinkhornPlan& plan, const SinkhornProblem& problem, Workspace workspace,
              Stream stream);

}  // namespace gg::cpu
