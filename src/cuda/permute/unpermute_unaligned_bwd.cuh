// unpermute's backward for rows of any length and address, in windows (window.cuh).
// Called by unpermute_bwd.cu. Start at unpermute_unaligned_rows_bwd.
#pragma once

#include "cuda/permute/unpermute_rows_bwd.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

inline constexpr int kSharedSlots = 8;  // of a token, at a time

// A slot's row as all threads of its token see it on the way back: worked out once for a
// block and kept in shared memory. Addresses are those of the first whole window.
struct alignas(16) SlotRowBwd {
  // Next to Funnel's bits. A dropped slot has neither of the first two.
  static constexpr uint32_t kInner = 1u << 30;
  static constexpr uint32_t kOuter = 1u << 29;  // pieces would leave a matrix
  static constexpr uint32_t kShort = 1u << 28;  // one whole window less than most_whole()
  static constexpr int kFirstBit = 8;           // of Windows::first

  char* target;       // at a 16-byte boundary; the input's where no gradient of it is wanted
  const char* grad;   // the piece there
  const char* input;  // at such a boundary, too, unless kShifts
  float prob;
  uint32_t funnel;  // of the gradient, and the facts above

  __device__ __forceinline__ bool is(uint32_t fact) const { return (funnel & fact) != 0; }
  // Whether pieces may be read for a whole window, which it has.
  __device__ __forceinline__ bool has_inner(int window, int most) const {
    return is(kInner) && window < most - (is(kShort) ? 1 : 0);
  }
  __device__ __forceinline__ int first() const { return funnel >> kFirstBit & 15; }
  __device__ __forceinline__ const char* grad_address() const {
    return grad + (funnel % 32 / 8 + (is(Funnel::kSkipsWord) ? 4 : 0));
  }
};

template <bool kDots>
__device__ __forceinline__ SlotRowBwd slot_row(const UnpermuteBwdArgs& args, int64_t token,
                                               int slot) {
  const int64_t row = args.map.load(slot * args.num_tokens + token);
  const float prob = args.probs.data != nullptr ? args.probs.load(token * args.topk + slot) : 1.0f;
  if (row < 0 || row >= args.num_rows) return {};
  const char* const input = args.input + row * args.input_pitch;
  char* const target = args.input_grad != nullptr ? args.input_grad + row * args.row_bytes
                                                  : const_cast<char*>(input);
  const Windows windows(target, args.row_bytes);
  const int first = windows.first;
  const char* const grad = args.output_grad + token * args.grad_pitch + first;
  const bool is_inner =
      args.inner_grad_rows.contain(token) && (!kDots || args.inner_input_rows.contain(row));
  const bool is_short = windows.num_whole < args.row_bytes / kVectorBytes;
  const uint32_t facts = (is_inner ? SlotRowBwd::kInner : SlotRowBwd::kOuter) |
                         (is_short ? SlotRowBwd::kShort : 0) |
                         static_cast<uint32_t>(first) << SlotRowBwd::kFirstBit;
  return {target + first, piece_at(grad), input + first, prob, Funnel::of(grad).bits | facts};
}

// What the threads of a block tell each other.
struct SharedBwd {
  SlotRowBwd* rows;             // [rows_per_block, kSharedSlots]
  float* edges;                 // [rows_per_block, kSharedSlots, 2]: dots of heads and tails
  float (*dots)[kSharedSlots];  // [warps]: of whole windows

  static int64_t bytes(int rows_per_block) {
    return rows_per_block * kSharedSlots * int64_t{sizeof(SlotRowBwd) + 2 * sizeof(float)} +
           kRowThreads / 32 * kSharedSlots * int64_t{sizeof(float)};
  }
  __device__ __forceinline__ SharedBwd(SlotRowBwd* memory, int rows_per_block) : rows(memory) {
    edges = reinterpret_cast<float*>(rows + rows_per_block * kSharedSlots);
    dots = reinterpret_cast<float (*)[kSharedSlots]>(edges + rows_per_block * kSharedSlots * 2);
  }
};

// Any part of a window: its gradient is written, its dot product returned.
template <typename T, bool kDots>
__device__ __forceinline__ float any_window(const UnpermuteBwdArgs& args, const SlotRowBwd& row,
                                            int64_t offset, const WindowPart& part,
                                            uint64_t policy) {
  const auto load = [&](const char* address) {
    // A neighbour's elements are none of the sum.
    return row.is(SlotRowBwd::kOuter) ? load_bytes(address, part)
                                      : masked(load_window(address), part);
  };
  float grads[Elements<T>::kCount];
  Elements<T>::unpack(load(row.grad_address() + offset), grads);
  float dot = 0.0f;
  if constexpr (kDots) add_products<T>(dot, grads, load(row.input + offset));
  if (args.input_grad != nullptr) {
    store_window(row.target + offset, scaled<T>(grads, row.prob), part, policy);
  }
  return dot;
}

// Heads and tails of all rows of the block, side by side: one after the other they would
// hold up every warp.
template <typename T, bool kDots>
__device__ __forceinline__ void write_edges(const UnpermuteBwdArgs& args, const SharedBwd& shared,
                                            int num_rows, uint64_t policy) {
#pragma unroll 1
  for (int i = threadIdx.x; i < num_rows * kSharedSlots * 2; i += kRowThreads) {
    const SlotRowBwd& row = shared.rows[i / 2];
    const Windows windows(row.first(), args.row_bytes);
    const WindowPart part = i % 2 == 0 ? windows.head() : windows.tail();
    float dot = 0.0f;
    if (row.is(SlotRowBwd::kInner | SlotRowBwd::kOuter) && !part.is_empty()) {
      const int64_t window = i % 2 == 0 ? -1 : windows.num_whole;
      dot = any_window<T, kDots>(args, row, window * kVectorBytes, part, policy);
    }
    if constexpr (kDots) shared.edges[i] = dot;
  }
}

// The whole windows of kAtOnce rows, by the threads of their token. The input's, where they lie
// like the gradient's, are staged: all on their way together.
template <typename T, bool kDots, bool kShifts, int kAtOnce>
__device__ __forceinline__ void write_whole(const UnpermuteBwdArgs& args, const SlotRowBwd* rows,
                                            int lane, int width, uint64_t policy,
                                            float (&dots)[kAtOnce]) {
  constexpr bool kStages = kDots && !kShifts;
  __shared__ StagedRows<kStages ? kAtOnce : 1> staged;
  const int most = static_cast<int>(args.row_bytes / kVectorBytes);
  for (int window = lane; window < most; window += width) {
    const int64_t offset = static_cast<int64_t>(window) * kVectorBytes;
    if constexpr (kStages) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (rows[j].has_inner(window, most)) {
          ptx::copy_to_shared(staged[j], rows[j].input + offset);
        }
      }
    }
    RawWindow next{};  // of the gradient, which lies otherwise for each slot
    if (rows[0].has_inner(window, most)) next = load_raw(rows[0].grad + offset);
    if constexpr (kStages) ptx::wait_for_copies();
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const RawWindow raw = next;
      if (j + 1 < kAtOnce && rows[j + 1].has_inner(window, most)) {
        next = load_raw(rows[j + 1].grad + offset);
      }
      if (!rows[j].has_inner(window, most)) continue;
      float grads[Elements<T>::kCount];
      Elements<T>::unpack(shifted(raw, {rows[j].funnel}), grads);
      if (args.input_grad != nullptr) {
        ptx::store_evict_first(rows[j].target + offset, scaled<T>(grads, rows[j].prob), policy);
      }
      if constexpr (kStages) {
        add_products<T>(dots[j], grads, staged[j]);
      } else if constexpr (kDots) {
        const char* const input = rows[j].input + offset;
        add_products<T>(dots[j], grads, shifted(load_raw(piece_at(input)), Funnel::of(input)));
      }
    }
  }
#pragma unroll 1
  for (int slot = 0; slot < kAtOnce; ++slot) {  // few rows of a matrix
    const SlotRowBwd& row = rows[slot];
    if (!row.is(SlotRowBwd::kOuter)) continue;
    const int end = Windows(row.first(), args.row_bytes).num_whole;
#pragma unroll 1
    for (int window = lane; window < end; window += width) {
      const float dot = any_window<T, kDots>(args, row, static_cast<int64_t>(window) * kVectorBytes,
                                             WindowPart::whole(), policy);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) dots[j] += j == slot ? dot : 0.0f;
    }
  }
}

// The dot products of slots k and following, always added up in the same order. By all threads
// of the block; a row has whole warps.
__device__ __forceinline__ void write_shared_dots(const UnpermuteBwdArgs& args,
                                                  const SharedBwd& shared, RowShape shape,
                                                  int64_t first_token, int k) {
  __syncthreads();
  const int num_warps = shape.width / 32;
#pragma unroll 1
  for (int i = threadIdx.x; i < shape.rows_per_block() * kSharedSlots; i += kRowThreads) {
    const int row = i / kSharedSlots;
    const int slot = i % kSharedSlots;
    const int64_t token = first_token + row;
    if (token >= args.num_tokens || k + slot >= args.topk) continue;
    float sum = shared.edges[2 * i] + shared.edges[2 * i + 1];
#pragma unroll 1
    for (int warp = 0; warp < num_warps; ++warp) sum += shared.dots[row * num_warps + warp][slot];
    args.probs_grad[token * args.topk + k + slot] = sum;
  }
}

// Rows of any length and address. kShifts: the input's rows lie otherwise within 16 bytes
// than the gradient's that are written. kAtOnce: slots that a thread takes together. H200,
// 2026-11-29, of copy, steady, two slots in registers, and eight of which the rows are staged
// (with topK 2 two), as much of a row at once as a block has threads for:
//
//   16384x8x1025 e4m3  0.531  0.608    8192x8x7167 e4m3  0.589  0.716
//   16384x8x1025 bf16  0.623  0.722    8192x8x7167 bf16  0.679  0.745    16384x2x4095  0.697  0.716
//
// Staged, but with the same small pieces of more rows (64 threads for 447 windows): 0.581 at
// 8192x8x7167 e4m3; eight slots with topK 2: 0.589.
template <typename T, int kAtOnce, bool kDots, bool kShifts>
__global__ void __launch_bounds__(kRowThreads, 4)
    unpermute_unaligned_rows_bwd(const UnpermuteBwdArgs args, const RowShape shape) {
  extern __shared__ SlotRowBwd slot_rows_bwd[];
  ptx::let_next_kernel_start();
  const int64_t clear_block = args.clear_block();
  if (clear_block >= 0) return clear_empty_rows(args.empty_rows, clear_block);
  const int num_rows = shape.rows_per_block();
  const SharedBwd shared(slot_rows_bwd, num_rows);
  const int64_t first_token = args.token_block() * num_rows;
  const int row = static_cast<int>(threadIdx.x) / shape.width;
  const uint64_t policy = ptx::evict_first_policy();
  for (int k = 0; k < args.topk; k += kSharedSlots) {
    __syncthreads();  // of the slots before them nothing is needed any more
#pragma unroll 1
    for (int i = threadIdx.x; i < num_rows * kSharedSlots; i += kRowThreads) {
      const int64_t token = first_token + i % num_rows;
      const int slot = i / num_rows;
      SlotRowBwd value{};
      if (token < args.num_tokens && k + slot < args.topk) {
        value = slot_row<kDots>(args, token, k + slot);
      }
      shared.rows[i % num_rows * kSharedSlots + slot] = value;
    }
    __syncthreads();
#pragma unroll 1
    for (int j = 0; j < kSharedSlots && k + j < args.topk; j += kAtOnce) {
      float dots[kAtOnce] = {};
      if (row < num_rows) {
        write_whole<T, kDots, kShifts, kAtOnce>(args, shared.rows + row * kSharedSlots + j,
                                                static_cast<int>(threadIdx.x) % shape.width,
                                                shape.width, policy, dots);
      }
      if constexpr (kDots) {
        const float sum = warp_sums<kAtOnce>(dots);
        const int lane = threadIdx.x % 32;
        if (lane < kAtOnce) shared.dots[threadIdx.x / 32][j + lane] = sum;
      }
    }
    write_edges<T, kDots>(args, shared, num_rows, policy);
    if constexpr (kDots) write_shared_dots(args, shared, shape, first_token, k);
  }
}

}  // namespace gg::cuda
