// Row movement in token order: a row is read once and written topK times.
// Rows that no slot fills are zeros.
#pragma once

#include "cuda/common/number.cuh"

namespace gg::cuda {

inline constexpr int kRowThreads = 256;

// How a block of kRowThreads is shared out: `width` threads side by side on one
// row, the rest on the next rows.
struct RowShape {
  int width;
  __host__ __device__ int rows_per_block() const { return kRowThreads / width; }
};

// Up to 256 threads a row, a power of two, so that short rows share a block.
inline RowShape row_shape(int64_t vectors_per_row) {
  int width = 1;
  while (width < kRowThreads && width < vectors_per_row) width *= 2;
  return {width};
}

struct PermuteRowsArgs {
  const char* input;  // [T, h], rows input_pitch bytes apart
  char* output;       // [num_out, h]
  const int* row_id_map;
  const int* num_kept;
  int64_t input_pitch;
  int64_t row_bytes;
  int num_tokens;
  int topk;
  int num_out;
  int num_token_blocks;  // the blocks after these write zeros
};

template <int kBytes>
__global__ void __launch_bounds__(kRowThreads) permute_rows(PermuteRowsArgs args, RowShape shape) {
  using Bytes = typename BytesOf<kBytes>::type;
  const int64_t num_vectors = args.row_bytes / kBytes;
  const int lane = threadIdx.x % shape.width;
  const int row_in_block = threadIdx.x / shape.width;
  if (static_cast<int>(blockIdx.x) < args.num_token_blocks) {
    const int64_t token = static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + row_in_block;
    if (token >= args.num_tokens) return;
    const Bytes* source = reinterpret_cast<const Bytes*>(args.input + token * args.input_pitch);
    for (int64_t v = lane; v < num_vectors; v += shape.width) {
      const Bytes value = source[v];
      for (int k = 0; k < args.topk; ++k) {
        const int row = args.row_id_map[static_cast<int64_t>(k) * args.num_tokens + token];
        if (row < 0) continue;
        reinterpret_cast<Bytes*>(args.output + row * args.row_bytes)[v] = value;
      }
    }
    return;
  }
  const int64_t num_zero_blocks = gridDim.x - args.num_token_blocks;
  const int64_t block = static_cast<int64_t>(blockIdx.x) - args.num_token_blocks;
  for (int64_t row = *args.num_kept + block * shape.rows_per_block() + row_in_block;
       row < args.num_out; row += num_zero_blocks * shape.rows_per_block()) {
    Bytes* target = reinterpret_cast<Bytes*>(args.output + row * args.row_bytes);
    for (int64_t v = lane; v < num_vectors; v += shape.width) target[v] = Bytes{};
  }
}

}  // namespace gg::cuda
