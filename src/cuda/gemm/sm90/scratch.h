// What a call needs in its workspace. Host code of sm90/ only.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/gemm/groups.h"
#include "cuda/gemm/sm90/args.h"

namespace gg::cuda::sm90 {

// What a plan's workspace holds: counters of claims at its head, where the plan has them, and
// sizes from the host.
struct Scratch {
  DeviceGroups groups;
  unsigned* claims;  // null: nobody claims
};

// Queues the filling of it. The kernel that is launched next, as a dependent one, waits before it
// reads sizes or claims.
Scratch prepare(const char* op, const GmmPlan& plan, const GroupSizes& groups, Workspace workspace,
                Stream stream);

}  // namespace gg::cuda::sm90
