// Which operand of the K-grouped kernel plays which role: a pure host function. The problem's
// refusal and plan are declared in door.h, shapes in policy.h. No CUDA in this header.
#pragma once

#include "grouped_gemm/gmm.h"

namespace gg::cuda::sm80 {

// Out's contiguous dimension decides: dy is left for out [E, N, K], the tokens are
// left where out is the transposed view of an [E, K, N].
struct KGroupedRoles {
  const TensorView& left;   // [T, rows of out]
  const TensorView& right;  // [T, columns of out]
  int row_dim;              // of out
  int column_dim;           // of out, with stride 1
};

// For a problem that is not refused.
KGroupedRoles roles_of(const GmmWgradProblem& problem);

}  // namespace gg::cuda::sm80
