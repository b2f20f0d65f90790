// The row map's launches; permute.cu calls them.
#pragma once

#include <cuda_runtime.h>

#include "cuda/common/slot_counts.cuh"
#include "grouped_gemm/permute.h"

namespace gg::cuda {

// Bytes of scratch that the map needs.
int64_t row_map_workspace_bytes(const PermutePlan& plan, const PermuteProblem& problem);

// Where in the workspace the kernel in front leaves its counts (take_counts); nowhere
// if the map counts itself.
SlotCounts counts_to_take(const PermutePlan& plan, const PermuteProblem& problem,
                          Workspace workspace);

// Queues the map. Returns where in the workspace it will stand where the last
// group ends: rows from there on are empty; a kernel launched next may depend on the last launch
// (launch.h).
const int* launch_row_map(const PermutePlan& plan, const PermuteProblem& problem,
                          Workspace workspace, cudaStream_t stream);

}  // namespace gg::cuda
