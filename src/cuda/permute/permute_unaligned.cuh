// permute's rows of any length and address, in windows (window.cuh) that lie as each target's
// do, so that a token's row is read again from L1 for each of its slots. Called by
// permute_rows.cu. Start at permute_unaligned_rows.
#pragma once

#include "cuda/permute/permute_rows.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

inline constexpr int kTargetsAtOnce = 4;  // windows in flight together in a thread

// Where a slot's row goes, as all threads of its token see it: worked out once for a block
// and kept in shared memory. Addresses are those of the first whole window.
struct alignas(16) Target {
  char* row;          // a 16-byte boundary
  const char* piece;  // of the source
  uint32_t funnel;
  int num_whole;  // windows that may be read in pieces; -1: none may; -2: the slot is dropped
  int first;      // of Windows

  static constexpr int kOuter = -1;
  static constexpr int kDropped = -2;
  __device__ __forceinline__ const char* source() const {
    return piece + (funnel % 32 / 8 + ((funnel & Funnel::kSkipsWord) != 0 ? 4 : 0));
  }
};

__device__ __forceinline__ Target target_of(const PermuteRowsArgs& args, int64_t token, int slot) {
  Target target{};
  target.num_whole = Target::kDropped;
  if (token >= args.num_tokens || slot >= args.topk) return target;
  const int64_t to = args.row_id_map.load(slot * args.num_tokens + token);
  if (to < 0 || to >= args.num_out) return target;
  char* const row = args.output + to * args.row_bytes;
  const Windows windows(row, args.row_bytes);
  const char* const source = args.input + token * args.input_pitch + windows.first;
  target.row = row + windows.first;
  target.piece = piece_at(source);
  target.funnel = Funnel::of(source).bits;
  target.num_whole = args.inner_rows.contain(token) ? windows.num_whole : Target::kOuter;
  target.first = windows.first;
  return target;
}

// Any part of a window.
__device__ __forceinline__ void permute_window(const Target& target, int64_t offset,
                                               const WindowPart& part, uint64_t policy) {
  if (part.is_empty()) return;
  const char* const source = target.source() + offset;
  const uint4 value =
      target.num_whole == Target::kOuter ? load_bytes(source, part) : load_window(source);
  store_window(target.row + offset, value, part, policy);
}

// Heads and tails of all targets of the block, side by side: one after the other they would
// hold up every warp.
__device__ __forceinline__ void permute_edges(const PermuteRowsArgs& args, const Target* targets,
                                              int num_targets, uint64_t policy) {
#pragma unroll 1
  for (int i = threadIdx.x; i < num_targets * 2; i += kRowThreads) {
    const Target target = targets[i / 2];
    if (target.num_whole == Target::kDropped) continue;
    const Windows windows(target.first, args.row_bytes);
    const bool is_head = i % 2 == 0;
    const int64_t window = is_head ? -1 : windows.num_whole;
    permute_window(target, window * kVectorBytes, is_head ? windows.head() : windows.tail(),
                   policy);
  }
}

// A window of kTargetsAtOnce targets of a token.
__device__ __forceinline__ void permute_windows(const Target* targets, int window,
                                                uint64_t policy) {
  const int64_t offset = static_cast<int64_t>(window) * kVectorBytes;
  RawWindow raw[kTargetsAtOnce];
#pragma unroll
  for (int j = 0; j < kTargetsAtOnce; ++j) {
    if (window < targets[j].num_whole) raw[j] = load_raw(targets[j].piece + offset);
  }
#pragma unroll
  for (int j = 0; j < kTargetsAtOnce; ++j) {
    if (window >= targets[j].num_whole) continue;
    ptx::store_evict_first(targets[j].row + offset, shifted(raw[j], {targets[j].funnel}), policy);
  }
}

// The whole windows of a token's targets, by its threads: one of all targets, then the next
// one, so that what they read is still in L1.
__device__ __forceinline__ void permute_whole(const PermuteRowsArgs& args, const Target* targets,
                                              int num_targets, bool is_inner, int lane, int width,
                                              uint64_t policy) {
  const int most = static_cast<int>(args.row_bytes / kVectorBytes);
  for (int window = lane; window < most; window += width) {
#pragma unroll 1
    for (int j = 0; j < num_targets; j += is_inner ? kTargetsAtOnce : 1) {
      if (is_inner) {
        permute_windows(targets + j, window, policy);
        continue;
      }
      const Target target = targets[j];  // few rows of a matrix
      if (target.num_whole == Target::kDropped) continue;
      if (window >= Windows(target.first, args.row_bytes).num_whole) continue;
      permute_window(target, static_cast<int64_t>(window) * kVectorBytes, WindowPart::whole(),
                     policy);
    }
  }
}

// permute_rows for rows of any length and address.
__global__ void __launch_bounds__(kRowThreads, 4)
    permute_unaligned_rows(const PermuteRowsArgs args, const RowShape shape) {
  extern __shared__ Target shared_targets[];  // [rows_per_block, kRowsAtOnce]
  const uint64_t policy = ptx::evict_first_policy();
  if (args.waits_first) ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  ptx::wait_for_previous_kernel();
  args.clear_empty_rows(shape);
  const int num_rows = shape.rows_per_block();
  const int row = static_cast<int>(threadIdx.x) / shape.width;
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * num_rows;
  for (int k = 0; k < args.topk; k += kRowsAtOnce) {
    __syncthreads();  // of the slots before them nothing is needed any more
    for (int i = threadIdx.x; i < num_rows * kRowsAtOnce; i += kRowThreads) {
      const int slot = i / num_rows;
      shared_targets[i % num_rows * kRowsAtOnce + slot] =
          target_of(args, first_token + i % num_rows, k + slot);
    }
    __syncthreads();
    if (row < num_rows) {
      permute_whole(args, shared_targets + row * kRowsAtOnce, min(kRowsAtOnce, args.topk - k),
                    args.inner_rows.contain(first_token + row),
                    static_cast<int>(threadIdx.x) % shape.width, shape.width, policy);
    }
    permute_edges(args, shared_targets, num_rows * kRowsAtOnce, policy);
  }
}

}  // namespace gg::cuda
