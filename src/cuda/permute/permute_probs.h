// The launches that move probs; permute.cu calls them.
#pragma once

#include <cuda_runtime.h>

#include "grouped_gemm/tensor_view.h"

namespace gg::cuda {

// output[t, k] = input[map[k, t]], or 0 where the map names none. `map` is
// [topK, T], or [T] for topK = 1.
void move_probs(const char* op, const TensorView& input, const TensorView& map,
                const TensorView& output, cudaStream_t stream);

// output[map[k, t]] = input[t, k], and 0 where the map [topK, T] names nothing.
void scatter_probs(const char* op, const TensorView& input, const TensorView& map,
                   const TensorView& output, cudaStream_t stream);

}  // namespace gg::cuda
