// unpermute's backward: a token's gradient is read once; its topK rows are read
// for the probs' gradients and written for the input's. Called by
// unpermute_bwd.cu. Start at unpermute_rows_bwd.
#pragma once

#include "cuda/common/warp_sums.cuh"
#include "cuda/permute/empty_rows.cuh"
#include "cuda/permute/unpermute_rows.cuh"

namespace gg::cuda {

struct UnpermuteBwdArgs {
  const char* output_grad;     // [T, h], rows grad_pitch bytes apart
  const char* input;           // [N, h], rows input_pitch bytes apart, or null
  char* input_grad;            // [N, h] or null
  float* probs_grad;           // [T, topK] or null
  FloatPointer probs;          // [T, topK] or null
  IntegerPointer map;          // [topK, T]
  InnerRows inner_grad_rows;   // of output_grad
  InnerRows inner_input_rows;  // of input
  EmptyRowsArgs empty_rows;
  int64_t num_rows;
  int64_t num_tokens;
  int topk;
  int64_t grad_pitch;
  int64_t input_pitch;
  int64_t row_bytes;
  int64_t first_clear_block;  // blocks from here on clear rows, then tokens go on
  int64_t num_clear_blocks;

  // This block's number among those that clear, or -1.
  __device__ __forceinline__ int64_t clear_block() const {
    const int64_t block = static_cast<int64_t>(blockIdx.x) - first_clear_block;
    return block >= 0 && block < num_clear_blocks ? block : -1;
  }
  __device__ __forceinline__ int64_t token_block() const {
    return static_cast<int64_t>(blockIdx.x) < first_clear_block
               ? static_cast<int64_t>(blockIdx.x)
               : static_cast<int64_t>(blockIdx.x) - num_clear_blocks;
  }
};

// Adds up the dot products of the threads of a row, always in the same order, and
// writes them for the slots from the k-th on. By all threads of the block.
template <int kBatch>
__device__ __forceinline__ void write_dots(const UnpermuteBwdArgs& args, int width, int64_t token,
                                           int k, float (&dots)[kBatch]) {
  __shared__ float partial[kRowThreads / 32][kBatch];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  float sum = warp_sums<kBatch>(dots);
  if (width > 32) {
    if (lane < kBatch) partial[warp][lane] = sum;
    __syncthreads();
    if (lane < kBatch && threadIdx.x % width < 32) {
      sum = partial[warp][lane];
      for (int other = 1; other < width / 32; ++other) sum += partial[warp + other][lane];
    }
    __syncthreads();
  }
  const bool writes = threadIdx.x % width < kBatch;
  if (writes && token < args.num_tokens && k + lane < args.topk) {
    args.probs_grad[token * args.topk + k + lane] = sum;
  }
}

// The gradient of one vector of a slot's row.
template <typename T>
__device__ __forceinline__ uint4 scaled(const float (&grads)[Elements<T>::kCount], float prob) {
  float products[Elements<T>::kCount];
#pragma unroll
  for (int i = 0; i < Elements<T>::kCount; ++i) products[i] = __fmul_rn(prob, grads[i]);
  return Elements<T>::pack(products);
}

template <typename T>
__device__ __forceinline__ void add_products(float& dot, const float (&grads)[Elements<T>::kCount],
                                             const uint4& row) {
  float values[Elements<T>::kCount];
  Elements<T>::unpack(row, values);
#pragma unroll
  for (int i = 0; i < Elements<T>::kCount; ++i) dot = fmaf(grads[i], values[i], dot);
}

// Blocks of an SM: as many loads in flight as registers allow without spilling. H200, 2026-11-29,
// of copy, steady, eight slots with prob gradients in 3 blocks, which spill 16 bytes, and in 2:
// 32768x8x4096 0.897 and 0.915, 65536x8x2048 0.887 and 0.900, 8192x8x2048 0.889 and 0.892; two
// vectors at once, or the next one's loads before this one's stores: within 0.004 of that.
template <typename T, int kBatch, bool kDots>
constexpr int unpermute_bwd_blocks() {
  if (!kDots) return sizeof(T) == 1 ? 3 : 4;
  return sizeof(T) == 1 || kBatch == 8 ? 2 : 4;
}

// 16-byte vectors. A row has a warp at least; kBatch rows are in flight together. Stores come
// before the products, since they need not wait for the rows: 16384x2x4096 0.890 -> 0.930 of copy
// (H200, 2026-11-29), with eight slots neither better nor worse.
template <typename T, int kBatch, bool kDots>
__global__ void __launch_bounds__(kRowThreads, (unpermute_bwd_blocks<T, kBatch, kDots>()))
    unpermute_rows_bwd(const UnpermuteBwdArgs args, const RowShape shape) {
  ptx::let_next_kernel_start();
  const int64_t clear_block = args.clear_block();
  if (clear_block >= 0) return clear_empty_rows(args.empty_rows, clear_block);
  const int64_t token = args.token_block() * shape.rows_per_block() + threadIdx.x / shape.width;
  const int lane = threadIdx.x % shape.width;
  const bool is_token = token < args.num_tokens;
  const int num_vectors = is_token ? static_cast<int>(args.row_bytes / kVectorBytes) : 0;
  const uint64_t policy = ptx::evict_first_policy();
  const char* grad_row = args.output_grad + token * args.grad_pitch;
  for (int k = 0; k < args.topk; k += kBatch) {
    SlotBatch<kBatch> slots{};
    if (is_token) slots.load(args, token, k);
    float dots[kBatch] = {};
    for (int v = lane; v < num_vectors; v += shape.width) {
      slots.forget_addresses();
      const uint4 grad = ptx::load_once(vector_at(grad_row, v));
      uint4 values[kBatch];
      if constexpr (kDots) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (slots.rows[j] >= 0) {
            const char* row = args.input + slots.rows[j] * args.input_pitch;
            values[j] = ptx::load_once(vector_at(row, v));
          }
        }
      }
      float grads[Elements<T>::kCount];
      Elements<T>::unpack(grad, grads);
      if (args.input_grad != nullptr) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (slots.rows[j] < 0) continue;
          ptx::store_evict_first(vector_at(args.input_grad + slots.rows[j] * args.row_bytes, v),
                                 scaled<T>(grads, slots.probs[j]), policy);
        }
      }
      if constexpr (kDots) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (slots.rows[j] >= 0) add_products<T>(dots[j], grads, values[j]);
        }
      }
    }
    if constexpr (kDots) write_dots<kBatch>(args, shape.width, token, k, dots);
  }
}

}  // namespace gg::cuda
