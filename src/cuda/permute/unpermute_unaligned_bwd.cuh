// unpermute's backward for rows of any length and address, in windows (window.cuh).
// Called by unpermute_bwd.cu. Start at unpermute_unaligned_rows_bwd.
#pragma once

#include "cuda/permute/unpermute_rows_bwd.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

// One window of a slot's row on the way back: its gradient is written, its dot
// product returned. The input's bytes are asked for first, for several at once.
template <typename T, bool kDots>
struct WindowBwd {
  Windows windows;
  int64_t window;
  const char* grad_at;
  const char* input_at;
  bool exists;
  bool is_inner;
  RawWindow raw_value;

  // Windows of the rows written, or of those read where none are.
  __device__ __forceinline__ WindowBwd(const UnpermuteBwdArgs& args, int64_t token, int64_t row,
                                       int64_t window)
      : windows(args.input_grad != nullptr ? args.input_grad + row * args.row_bytes
                                           : const_cast<char*>(args.input) + row * args.input_pitch,
                args.row_bytes),
        window(window),
        raw_value{} {
    const int64_t offset = window * kVectorBytes - windows.row_at;
    grad_at = args.output_grad + token * args.grad_pitch + offset;
    input_at = args.input + row * args.input_pitch + offset;
    exists = row >= 0 && window < windows.count();
    is_inner =
        args.inner_grad_rows.contain(token) && (!kDots || args.inner_input_rows.contain(row));
    if (kDots && exists && is_inner) raw_value = load_raw(input_at);
  }

  __device__ __forceinline__ float step(const UnpermuteBwdArgs& args, float prob,
                                        uint64_t policy) const {
    if (!exists) return 0.0f;
    const WindowPart part(windows, window);
    uint4 grad = is_inner ? shifted(load_raw(grad_at), grad_at) : load_bytes(grad_at, part);
    uint4 value{};
    if constexpr (kDots) {
      value = is_inner ? shifted(raw_value, input_at) : load_bytes(input_at, part);
      if (!part.is_whole()) {  // a neighbour's elements are none of this sum
        grad = masked(grad, part);
        value = masked(value, part);
      }
    }
    float grads[Elements<T>::kCount];
    Elements<T>::unpack(grad, grads);
    float dot = 0.0f;
    if constexpr (kDots) add_products<T>(dot, grads, value);
    if (args.input_grad != nullptr) {
      store_window(windows.first + window * kVectorBytes, scaled<T>(grads, prob), part, policy);
    }
    return dot;
  }
};

inline constexpr int kUnalignedBatch = 4;  // slots in flight together

// The same for rows of any length and address. Full rounds of a row's threads over the
// windows of kUnalignedBatch rows; the few windows left of all these rows side by side.
template <typename T, bool kDots>
__global__ void __launch_bounds__(kRowThreads, 3)
    unpermute_unaligned_rows_bwd(const UnpermuteBwdArgs args, const RowShape shape) {
  ptx::let_next_kernel_start();
  const int64_t clear_block = args.clear_block();
  if (clear_block >= 0) return clear_empty_rows(args.empty_rows, clear_block);
  const int lane = static_cast<int>(threadIdx.x) % shape.width;
  const int64_t token = row_of_thread(shape, args.token_block(), args.num_tokens);
  const bool is_token = token < args.num_tokens;
  const uint64_t policy = ptx::evict_first_policy();
  const int num_windows = static_cast<int>(args.row_bytes / kVectorBytes + 2);
  const int num_left = num_windows % shape.width;
  for (int k = 0; k < args.topk; k += kUnalignedBatch) {
    float dots[kUnalignedBatch] = {};
    if (is_token) {
      SlotBatch<kUnalignedBatch> slots;
      slots.load(args, token, k);
      for (int window = lane; window < num_windows - num_left; window += shape.width) {
        slots.forget_addresses();
        // Two at a time: more would cost registers and so blocks.
#pragma unroll
        for (int j = 0; j < kUnalignedBatch; j += 2) {
          const WindowBwd<T, kDots> first(args, token, slots.rows[j], window);
          const WindowBwd<T, kDots> second(args, token, slots.rows[j + 1], window);
          dots[j] += first.step(args, slots.probs[j], policy);
          dots[j + 1] += second.step(args, slots.probs[j + 1], policy);
        }
      }
      for (int i = lane; i < num_left * kUnalignedBatch; i += shape.width) {
        const int slot = i / num_left;
        SlotBatch<1> one;
        one.load(args, token, k + slot);
        const WindowBwd<T, kDots> last(args, token, one.rows[0],
                                       num_windows - num_left + i % num_left);
        const float dot = last.step(args, one.probs[0], policy);
#pragma unroll
        for (int j = 0; j < kUnalignedBatch; ++j) dots[j] += j == slot ? dot : 0.0f;
      }
    }
    if constexpr (kDots) write_dots<kUnalignedBatch>(args, shape.width, token, k, dots);
  }
}

}  // namespace gg::cuda
