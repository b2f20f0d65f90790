// What the rest of src/cuda may call of this folder: grouped GEMM by mma.sync and cp.async,
// for compute capability 8.0 and whatever comes after it. Start reading at m_grouped.cuh and
// k_grouped.cuh. Called by cuda/gemm/gmm.cc.
#pragma once

#include <string_view>

#include "grouped_gemm/gmm.h"

namespace gg::cuda::sm80 {

// Whether an architecture of 8.0 or more was built; absent.cc answers where none was.
bool is_built();

// policy.cc, k_grouped_policy.cc: why the problem cannot run here (empty where it
// can), and the plan.
std::string_view refusal(const GmmProblem& problem, const DeviceLimits& limits);
std::string_view refusal(const GmmWgradProblem& problem, const DeviceLimits& limits);
void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits);
void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits);

// launch.cu, k_grouped_launch.cu
void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream);
void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream);

}  // namespace gg::cuda::sm80
