// The launch that moves rows by a map; permute.cu, unpermute_bwd.cu and sort_chunks.cu
// call it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/common/dispatch.h"
#include "grouped_gemm/tensor_view.h"

namespace gg::cuda {

inline int rows_vector_bytes(const TensorView& input, const TensorView& output) {
  return std::min(common_vector_bytes(input), common_vector_bytes(output));
}

// How the launch stands to the kernel in front of it in the stream.
struct AfterPrevious {
  bool waits_first = false;  // that kernel may write the input: no map was made in between
  bool dependent = true;     // it may still run (dependent_launch.h)
};

// Each row of `input` to the rows of `output` that `map` [topK, T] int32 names, and
// zeros to the rows from *num_kept on, where that is not null.
void launch_permute_rows(const char* op, const TensorView& map, const TensorView& input,
                         const TensorView& output, int vector_bytes, const int* num_kept,
                         cudaStream_t stream, AfterPrevious after = {});

}  // namespace gg::cuda
