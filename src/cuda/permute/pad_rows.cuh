// Zeros for the rows that pad the groups. Called by permute.cu after the rows
// that have a slot; rows after the last group are cleared with those.
#pragma once

#include "cuda/permute/rows.cuh"

namespace gg::cuda {

// Blocks of one group: its pads are at most one row less than the alignment.
inline constexpr int kPadBlocksPerGroup = 4;

struct PadRowsArgs {
  char* rows;                    // [num_out, h]
  const int* tokens_per_expert;  // [E]
  const int* offsets;            // [E]
  int64_t num_out;
  int64_t row_bytes;
};

// A warp for each row.
__global__ void __launch_bounds__(kRowThreads) clear_pad_rows(const PadRowsArgs args) {
  constexpr int kWarps = kRowThreads / 32;
  ptx::let_next_kernel_start();
  ptx::wait_for_previous_kernel();
  const int expert = blockIdx.x / kPadBlocksPerGroup;
  const int part = blockIdx.x % kPadBlocksPerGroup;
  // A map that the caller gave may name anything.
  const int64_t begin = expert > 0 ? max(args.offsets[expert - 1], 0) : 0;
  const int64_t end = min(static_cast<int64_t>(args.offsets[expert]), args.num_out);
  const int64_t first = begin + max(args.tokens_per_expert[expert], 0);
  for (int64_t row = first + part * kWarps + threadIdx.x / 32; row < end;
       row += kPadBlocksPerGroup * kWarps) {
    clear_row(args.rows + row * args.row_bytes, args.row_bytes, threadIdx.x % 32, 32);
  }
}

}  // namespace gg::cuda
