// permute's rows, in token order: a row is read once and written topK times. Rows
// that no slot fills are zeros. Called by permute_rows.cu. Rows at any address:
// permute_unaligned.cuh.
#pragma once

#include "cuda/permute/permute_rows_policy.h"
#include "cuda/permute/rows.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

inline constexpr int kRowsAtOnce = 8;  // map entries in flight together

struct PermuteRowsArgs {
  const char* input;  // [T, h], rows input_pitch bytes apart
  char* output;       // [num_out, h]
  IntegerPointer row_id_map;
  const int* num_kept;   // or null: no rows of zeros
  InnerRows inner_rows;  // of the input
  int64_t input_pitch;
  int64_t row_bytes;
  int64_t num_tokens;
  int topk;
  int64_t num_out;
  bool waits_first;  // the kernel in front may write the input
  Burst burst;

  // Rows from num_kept on, shared out over all rows' threads of the grid.
  __device__ __forceinline__ void clear_empty_rows(RowShape shape) const {
    if (num_kept == nullptr) return;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * shape.rows_per_block();
    int64_t row = max(*num_kept, 0) + row_of_thread(shape, blockIdx.x, num_out);
    for (; row < num_out; row += stride) {
      clear_row(output + row * row_bytes, row_bytes, threadIdx.x % shape.width, shape.width);
    }
  }
};

// Fetches this token's share of the next burst: by one thread a token.
__device__ __forceinline__ void fetch_ahead(const PermuteRowsArgs& args, int64_t token) {
  const int64_t first = args.burst.first_to_fetch(token, args.num_tokens);
  const int64_t count = min(static_cast<int64_t>(args.burst.share), args.num_tokens - first);
  if (count <= 0) return;
  // Whole vectors of them: rows of any length and address are fetched, too.
  const auto start = reinterpret_cast<uintptr_t>(args.input + first * args.row_bytes);
  const uintptr_t begin = (start + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
  const uintptr_t end = (start + count * args.row_bytes) / kVectorBytes * kVectorBytes;
  if (begin >= end) return;
  ptx::prefetch_evict_last(reinterpret_cast<const void*>(begin),
                           static_cast<uint32_t>(end - begin));
}

inline constexpr int kVectorsOfThread = 2;  // of a row, in flight together, then in registers

template <int kThreads>
__global__ void __launch_bounds__(kThreads, blocks_of_sm(kMostBlocks<kThreads>, kThreads))
    permute_rows(const PermuteRowsArgs args, const RowShape shape) {
  const int lane = threadIdx.x % shape.width;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
  const int num_vectors = static_cast<int>(args.row_bytes / kVectorBytes);
  const uint64_t policy = ptx::evict_first_policy();
  if (args.waits_first) ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  if (token < args.num_tokens) {
    if (lane == 0) fetch_ahead(args, token);
    const char* source = args.input + token * args.input_pitch;
    for (int first = lane; first < num_vectors; first += shape.width * kVectorsOfThread) {
      uint4 values[kVectorsOfThread];
#pragma unroll
      for (int u = 0; u < kVectorsOfThread; ++u) {
        const int v = first + u * shape.width;
        if (v < num_vectors) values[u] = ptx::load_once(vector_at(source, v));
      }
      // Only now: the input was complete before the row map began, or the thread has waited.
      ptx::wait_for_previous_kernel();
      for (int k = 0; k < args.topk; k += kRowsAtOnce) {
        int rows[kRowsAtOnce];
        load_rows<kRowsAtOnce>(args.row_id_map, k * args.num_tokens + token, args.num_tokens,
                               args.topk - k, args.num_out, rows);
#pragma unroll
        for (int j = 0; j < kRowsAtOnce; ++j) {
          if (rows[j] < 0) continue;
          char* target = args.output + rows[j] * args.row_bytes;
#pragma unroll
          for (int u = 0; u < kVectorsOfThread; ++u) {
            const int v = first + u * shape.width;
            if (v < num_vectors) {
              ptx::store_evict_first(vector_at(target, v), values[u], policy);
            }
          }
        }
      }
    }
  }
  ptx::wait_for_previous_kernel();
  args.clear_empty_rows(shape);
}

}  // namespace gg::cuda
