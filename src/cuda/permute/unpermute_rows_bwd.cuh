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

// Adds up the dot products of the threads of a row, whole warps, always in the same order, and
// writes them for the slots from the k-th on. By all threads of the block; those without a row
// have token num_tokens.
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
    if (lane < kBatch && threadIdx.x % width < 32 && token < args.num_tokens) {
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

// One vector of a token's gradient and of its slots' rows for each thread of a block: rows
// on their way wait here, where they take no registers.
template <int kRows>
struct StagedRows {
  uint4 vectors[kRows][kRowThreads];
  __device__ __forceinline__ uint4& operator[](int row) { return vectors[row][threadIdx.x]; }
};

// A slot of a token: its row, or -1, and its prob.
struct Slot {
  int row;
  float prob;
};

// Slots k to k + kBatch - 1 of a block's tokens, [num_tokens, kBatch], one of each thread: all
// are on their way together. The block must be synchronized before they are read.
template <int kBatch>
__device__ __forceinline__ void load_slots(const UnpermuteBwdArgs& args, int64_t first_token,
                                           int num_tokens, int k, Slot* slots) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= num_tokens * kBatch) return;
  const int64_t token = first_token + i % num_tokens;
  const int64_t j = k + i / num_tokens;
  Slot slot{-1, 0.0f};
  if (token < args.num_tokens && j < args.topk) {
    slot.prob = args.probs.data != nullptr ? args.probs.load(token * args.topk + j) : 1.0f;
    const int64_t row = args.map.load(j * args.num_tokens + token);
    if (row >= 0 && row < args.num_rows) slot.row = static_cast<int>(row);
  }
  slots[i % num_tokens * kBatch + i / num_tokens] = slot;
}

// Sets the v-th vectors of a token's slots on their way.
template <int kBatch>
__device__ __forceinline__ void stage_rows(const UnpermuteBwdArgs& args, const Slot* slots, int v,
                                           StagedRows<1 + kBatch>& staged) {
#pragma unroll
  for (int j = 0; j < kBatch; ++j) {
    if (slots[j].row < 0) continue;
    const char* const row = args.input + slots[j].row * args.input_pitch;
    ptx::copy_to_shared(staged[1 + j], vector_at(row, v));
  }
}

// The v-th vector of a token's slots: gradients are written, then products added to `dots`.
template <typename T, int kBatch, bool kDots, typename Staged>
__device__ __forceinline__ void write_vector(const UnpermuteBwdArgs& args, const Slot* slots, int v,
                                             Staged& staged, float (&dots)[kBatch]) {
  float grads[Elements<T>::kCount];
  Elements<T>::unpack(staged[0], grads);
  if (args.input_grad != nullptr) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const Slot slot = slots[j];
      if (slot.row < 0) continue;
      char* const row = args.input_grad + slot.row * args.row_bytes;
      *reinterpret_cast<uint4*>(vector_at(row, v)) = scaled<T>(grads, slot.prob);
    }
  }
  if constexpr (kDots) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (slots[j].row >= 0) add_products<T>(dots[j], grads, staged[1 + j]);
    }
  }
}

// Blocks of an SM: as many rows on their way as shared memory and registers allow.
template <typename T, int kBatch, bool kDots>
constexpr int unpermute_bwd_blocks() {
  if (sizeof(T) == 1) return 4;
  return !kDots || kBatch == 2 ? 6 : kBatch == 4 ? 5 : 4;
}

// 16-byte vectors; a row has 8 threads at least, and whole warps where probs have a gradient. DRAM
// turns round between reading and writing, so a block first reads all that it will write, as much
// of each row as it has threads for, and then writes it in one go. H200, 2026-11-29, of copy,
// steady / cold, rows through registers (2 blocks, stores as loads arrive) and staged:
//
//   32768x8x4096  0.922 / 0.908  0.947 / 0.944    8192x8x2048   0.902 / 0.842  0.926 / 0.925
//   65536x8x2048  0.905 / 0.898  0.938 / 0.937    16384x2x4096  0.971 / 0.907  0.966 / 0.958
//   16384x8x2048  0.891 / 0.872  0.920 / 0.916    8192x2x4096   0.921 / 0.893  0.952 / 0.942
//   8192x8x7168   0.909 / 0.889  0.940 / 0.938
//
// Within 1 %: 64 or 128 threads, two or four vectors of each, no barrier between reading and
// writing, loads of the next vectors ahead of these ones' stores, stores that leave L2 first,
// bulk copies, several tokens in turn. Slots in registers of every thread, probs waited for before
// rows, L1 and shared memory split by default: 0.884 at 65536x8x2048. With two slots five blocks
// instead of six: 0.915 at 16384x2x4096.
template <typename T, int kBatch, bool kDots>
__global__ void __launch_bounds__(kRowThreads,
                                  blocks_of_sm(unpermute_bwd_blocks<T, kBatch, kDots>()))
    unpermute_rows_bwd(const UnpermuteBwdArgs args, const RowShape shape) {
  __shared__ StagedRows<1 + (kDots ? kBatch : 0)> staged;
  __shared__ Slot block_slots[kRowThreads];
  ptx::let_next_kernel_start();
  const int64_t clear_block = args.clear_block();
  if (clear_block >= 0) return clear_empty_rows(args.empty_rows, clear_block);
  const int num_rows = shape.rows_per_block();
  const int64_t first_token = args.token_block() * num_rows;
  const int64_t token =
      min(row_of_thread(shape, args.token_block(), args.num_tokens), args.num_tokens);
  const bool is_token = token < args.num_tokens;
  const int num_vectors = static_cast<int>(args.row_bytes / kVectorBytes);
  const char* const grad_row = args.output_grad + token * args.grad_pitch;
  const Slot* const slots = block_slots + static_cast<int>(threadIdx.x) / shape.width * kBatch;
  for (int k = 0; k < args.topk; k += kBatch) {
    if (k > 0) __syncthreads();  // the slots before are read
    float dots[kBatch] = {};
    for (int first = 0; first < num_vectors; first += shape.width) {
      const int v = first + static_cast<int>(threadIdx.x) % shape.width;
      const bool has_vector = is_token && v < num_vectors;
      if (has_vector) ptx::copy_to_shared(staged[0], vector_at(grad_row, v));
      if (first == 0) {
        load_slots<kBatch>(args, first_token, num_rows, k, block_slots);
        __syncthreads();
      }
      if constexpr (kDots) {
        if (has_vector) stage_rows<kBatch>(args, slots, v, staged);
      }
      ptx::wait_for_copies();
      __syncthreads();
      if (has_vector) write_vector<T, kBatch, kDots>(args, slots, v, staged, dots);
    }
    if constexpr (kDots) write_dots<kBatch>(args, shape.width, token, k, dots);
  }
}

}  // namespace gg::cuda
