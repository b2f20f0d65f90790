// The row map on the CPU; permute.cc calls it.
#pragma once

#include "grouped_gemm/permute.h"

namespace gg::cpu {

int64_t row_map_workspace_bytes(const PermuteProblem& problem);

// Writes the map and everything about the groups. Returns where the last group
// ends: rows from there on are empty.
int64_t write_row_map(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace);

}  // namespace gg::cpu
