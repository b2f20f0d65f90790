// What the rest of src/cuda may call of this folder: grouped GEMM for any compute
// capability, shape, dtype and alignment. Called by cuda/gemm/gmm.cc.
#pragma once

#include "grouped_gemm/gmm.h"

namespace gg::cuda::portable {

// launch.cu
void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits);
void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits);
void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream);
void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
               Stream stream);

}  // namespace gg::cuda::portable
