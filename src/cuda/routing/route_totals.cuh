// Adds up what the blocks of route_kernel counted. It may start before that kernel
// ends, and then waits for it. Launched by route.cu.
#pragma once

#include <cstdint>

#include "base/math.h"
#include "cuda/common/dependent_launch.cuh"

namespace gg::cuda {

struct RouteTotalsArgs {
  const int* counts;  // [S * num_pieces, E + 1]
  const float* sums;  // likewise, or null
  int num_pieces;     // of a sequence; 0 where there are no tokens
  int num_experts;
  int* tokens_per_expert;  // [S, E]
  int* invalid_tokens;     // [S] or null
  float* score_sums;       // [S, E] or null
  float* z_sums;           // [S] or null
};

inline constexpr int kTotalsRows = 32;

// Tiles of 32 columns: of the experts, then the invalid tokens or z.
GG_HOST_DEVICE int totals_tiles(int num_experts) { return num_experts / 32 + 1; }

// Block sequence * tiles + tile: adds the sequence's pieces in order.
__global__ void __launch_bounds__(32 * kTotalsRows) route_totals_kernel(RouteTotalsArgs args) {
  __shared__ int shared_counts[kTotalsRows][32];
  __shared__ float shared_sums[kTotalsRows][32];
  const int num_columns = args.num_experts + 1;
  const int num_tiles = totals_tiles(args.num_experts);
  const int lane = threadIdx.x % 32;
  const int first_row = threadIdx.x / 32;
  const int column = blockIdx.x % num_tiles * 32 + lane;
  const int64_t sequence = blockIdx.x / num_tiles;
  ptx::wait_for_previous_kernel();  // route_kernel
  int count = 0;
  float sum = 0.0f;
  if (column < num_columns) {
#pragma unroll 8
    for (int i = first_row; i < args.num_pieces; i += kTotalsRows) {
      const int64_t at = (sequence * args.num_pieces + i) * num_columns + column;
      count += args.counts[at];
      if (args.sums != nullptr) sum += args.sums[at];
    }
  }
  shared_counts[first_row][lane] = count;
  shared_sums[first_row][lane] = sum;
  __syncthreads();
  if (first_row != 0 || column >= num_columns) return;
  for (int row = 1; row < kTotalsRows; ++row) {
    count += shared_counts[row][lane];
    sum += shared_sums[row][lane];
  }
  if (column < args.num_experts) {
    args.tokens_per_expert[sequence * args.num_experts + column] = count;
    if (args.score_sums != nullptr) args.score_sums[sequence * args.num_experts + column] = sum;
  } else {
    if (args.invalid_tokens != nullptr) args.invalid_tokens[sequence] = count;
    if (args.z_sums != nullptr) args.z_sums[sequence] = sum;
  }
}

}  // namespace gg::cuda
