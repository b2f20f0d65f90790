// permute's rows, in token order: a row is read once and written topK times. Rows
// that no slot fills are zeros. Called by permute.cu.
#pragma once

#include "cuda/permute/rows.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

inline constexpr int kRowsAtOnce = 8;  // map entries in flight together

struct PermuteRowsArgs {
  const char* input;  // [T, h], rows input_pitch bytes apart
  char* output;       // [num_out, h]
  IntegerPointer row_id_map;
  const int* num_kept;
  Extent input_extent;
  int64_t input_pitch;
  int64_t row_bytes;
  int64_t num_tokens;
  int topk;
  int64_t num_out;
  Burst burst;

  // Rows from num_kept on, shared out over all rows' threads of the grid.
  __device__ __forceinline__ void clear_empty_rows(RowShape shape) const {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * shape.rows_per_block();
    int64_t row = *num_kept + static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() +
                  threadIdx.x / shape.width;
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
  ptx::prefetch(args.input + first * args.row_bytes, static_cast<uint32_t>(count * args.row_bytes));
}

// kUnroll vectors of a row in flight together, and then in registers.
template <int kUnroll>
__global__ void __launch_bounds__(kRowThreads, kUnroll == 1 ? 6 : 5)
    permute_rows(const PermuteRowsArgs args, const RowShape shape) {
  const int lane = threadIdx.x % shape.width;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
  const int num_vectors = static_cast<int>(args.row_bytes / kVectorBytes);
  const uint64_t policy = ptx::evict_first_policy();
  if (token < args.num_tokens) {
    if (lane == 0) fetch_ahead(args, token);
    const char* source = args.input + token * args.input_pitch;
    for (int first = lane; first < num_vectors; first += shape.width * kUnroll) {
      uint4 values[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int v = first + u * shape.width;
        if (v < num_vectors) values[u] = ptx::load_once(vector_at(source, v));
      }
      // Only now: the input was complete before the row map began.
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
          for (int u = 0; u < kUnroll; ++u) {
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

// The same for rows of any length and address; windows lie as the target's do, so
// the source is read again from L1 for each target.
__global__ void __launch_bounds__(kRowThreads)
    permute_unaligned_rows(const PermuteRowsArgs args, const RowShape shape) {
  const int lane = threadIdx.x % shape.width;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
  const uint64_t policy = ptx::evict_first_policy();
  ptx::wait_for_previous_kernel();
  if (token < args.num_tokens) {
    const char* source = args.input + token * args.input_pitch;
    const bool is_inside = args.input_extent.surrounds(source, args.row_bytes);
    const int64_t most_windows = args.row_bytes / kVectorBytes + 2;
    for (int64_t window = lane; window < most_windows; window += shape.width) {
      for (int k = 0; k < args.topk; k += kRowsAtOnce) {
        int rows[kRowsAtOnce];
        load_rows<kRowsAtOnce>(args.row_id_map, k * args.num_tokens + token, args.num_tokens,
                               args.topk - k, args.num_out, rows);
#pragma unroll
        for (int j = 0; j < kRowsAtOnce; ++j) {
          if (rows[j] < 0) continue;
          const Windows windows(args.output + rows[j] * args.row_bytes, args.row_bytes);
          if (window >= windows.count()) continue;
          const WindowPart part(windows, window);
          const char* from = source + (window * kVectorBytes - windows.row_at);
          const uint4 value = is_inside ? shifted(load_raw(from), from) : load_bytes(from, part);
          store_window(windows.first + window * kVectorBytes, value, part, policy);
        }
      }
    }
  }
  args.clear_empty_rows(shape);
}

}  // namespace gg::cuda
