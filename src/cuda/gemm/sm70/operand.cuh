// An operand on its way: global memory -> registers -> shared memory, 16 bytes at a time.
#pragma once

#include <cuda_fp16.h>

#include "cuda/gemm/sm70/layout.h"

namespace gg::cuda::sm70 {

// What an output tile needs of an operand: [outer, steps] from the tile's corner on, in
// chunks of 8 elements that lie in the operand wholly or not at all (policy.cc).
struct Operand {
  const __half* data;  // element (0, 0)
  int64_t pitch;       // elements between neighbours of the dimension that is not contiguous
  int num_outer;       // those of the tile that exist; others count as zeros
};

// A thread's share of a tile, while it is in registers.
template <typename Layout>
struct Chunks {
  uint4 values[Layout::kChunksPerThread];

  // The tile of steps [first_step, first_step + kTileK), of which those from num_steps on
  // are zeros: what lies behind them may be another group's, and NaN times 0 is NaN.
  __device__ __forceinline__ void load(const Operand& operand, int first_step, int num_steps) {
#pragma unroll
    for (int i = 0; i < Layout::kChunksPerThread; ++i) {
      const int chunk = static_cast<int>(threadIdx.x) + i * kThreads;
      const int outer = Layout::outer_of(chunk);
      const int step = first_step + Layout::step_of(chunk);
      values[i] = make_uint4(0, 0, 0, 0);
      if (outer < operand.num_outer && step < num_steps) {
        const int64_t offset = Layout::kContiguous == Major::kReduction
                                   ? outer * operand.pitch + step
                                   : step * operand.pitch + outer;
        values[i] = __ldg(reinterpret_cast<const uint4*>(operand.data + offset));
      }
    }
  }

  __device__ __forceinline__ void store(__half* tile) const {
#pragma unroll
    for (int i = 0; i < Layout::kChunksPerThread; ++i) {
      const int chunk = static_cast<int>(threadIdx.x) + i * kThreads;
      const int offset = Layout::offset(Layout::outer_of(chunk), Layout::step_of(chunk));
      *reinterpret_cast<uint4*>(tile + offset) = values[i];
    }
  }

 private:
  static constexpr int kThreads = Layout::kNumChunks / Layout::kChunksPerThread;
};

}  // namespace gg::cuda::sm70
