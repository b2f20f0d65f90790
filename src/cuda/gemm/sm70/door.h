// What the rest of src/cuda may call of this folder: fp16 grouped GEMM on the tensor cores
// of Volta and Turing. One kernel, two ways to multiply: path sm70 by WMMA (wmma.cuh), path
// sm75 by mma.sync m16n8k8 (mma.cuh); newer devices run either where it is forced. Start
// reading at m_grouped.cuh and k_grouped.cuh. Called by cuda/gemm/gmm.cc.
#pragma once

#include <string_view>

#include "grouped_gemm/gmm.h"

namespace gg::cuda::sm70 {

// policy.cc: why the path, sm70 or sm75, cannot run the problem (empty where it can), and
// the plan.
std::string_view refusal(Path path, const GmmProblem& problem, const DeviceLimits& limits);
std::string_view refusal(Path path, const GmmWgradProblem& problem, const DeviceLimits& limits);
void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits);
void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits);

// run.cc
void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream);
void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream);

}  // namespace gg::cuda::sm70
