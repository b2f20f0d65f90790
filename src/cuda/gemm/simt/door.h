// What the rest of src/cuda may call of this folder: grouped GEMM by plain fused
// multiply-adds, for what tensor cores do not take (fp32, 16-bit operands at odd addresses
// or on old devices). Start reading at tile.cuh. Called by cuda/gemm/gmm.cc.
#pragma once

#include <string_view>

#include "grouped_gemm/gmm.h"

namespace gg::cuda::simt {

// policy.cc: why the problem cannot run here (empty where it can), and the plan.
std::string_view refusal(const GmmProblem& problem, const DeviceLimits& limits);
std::string_view refusal(const GmmWgradProblem& problem, const DeviceLimits& limits);
void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits);
void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits);

// launch.cu
void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream);
void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream);

}  // namespace gg::cuda::simt
