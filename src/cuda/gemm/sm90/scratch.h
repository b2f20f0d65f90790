// The counters of claimed tiles. Host code of sm90/ only.
#pragma once

#include "cuda/common/launch.h"

namespace gg::cuda::sm90 {

// Queues the clearing of the counters at the head of a workspace, and returns them. The
// kernel that is launched next, as a dependent one, waits before it claims.
unsigned* clear_claims(const char* op, Workspace workspace, Stream stream);

// What is left of the workspace for sizes from the host.
Workspace behind_claims(Workspace workspace);

}  // namespace gg::cuda::sm90
