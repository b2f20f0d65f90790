// unpermute's rows: each token's topK rows, summed. Called by unpermute.cu.
#pragma once

#include "cuda/permute/elements.cuh"
#include "cuda/permute/rows.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

struct UnpermuteArgs {
  const char* input;              // [N, h], rows input_pitch bytes apart
  char* output;                   // [T, h]
  const char* residual;           // [T, h], rows residual_pitch bytes apart, or null
  FloatPointer probs;             // [T, topK] or null
  IntegerPointer map;             // [topK, T]
  InnerRows inner_rows;           // of the input
  InnerRows inner_residual_rows;  // of the residual
  int64_t num_rows;
  int64_t num_tokens;
  int topk;
  int64_t input_pitch;
  int64_t residual_pitch;
  int64_t row_bytes;
};

// Rows of kBatch slots of a token from the k-th on, and their probs: 1 where there
// are none, 0 where a slot is dropped.
template <int kBatch>
struct SlotBatch {
  int rows[kBatch];
  float probs[kBatch];

  template <typename Args>
  __device__ __forceinline__ void load(const Args& args, int64_t token, int k) {
    load_rows<kBatch>(args.map, k * args.num_tokens + token, args.num_tokens, args.topk - k,
                      args.num_rows, rows);
    if (args.probs.data != nullptr) {
      load_probs<kBatch>(args.probs, token * args.topk + k, args.topk - k, probs);
    } else {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) probs[j] = 1.0f;
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (rows[j] < 0) probs[j] = 0.0f;
    }
  }
};

// Products and sums are rounded one by one, never fused, so that the CPU path
// gives the same bits.
template <typename T>
__device__ __forceinline__ void add_weighted(float (&sums)[Elements<T>::kCount], const uint4& row,
                                             float prob) {
  float values[Elements<T>::kCount];
  Elements<T>::unpack(row, values);
#pragma unroll
  for (int i = 0; i < Elements<T>::kCount; ++i) {
    sums[i] = __fadd_rn(sums[i], __fmul_rn(prob, values[i]));
  }
}

// Only after the slots, since in flight with them it costs registers and so rows.
template <typename T>
__device__ __forceinline__ void finish_vector(const UnpermuteArgs& args, int64_t token, int v,
                                              float (&sums)[Elements<T>::kCount]) {
  if (args.residual != nullptr) {
    const char* residual = args.residual + token * args.residual_pitch;
    add_weighted<T>(sums, ptx::load_once(vector_at(residual, v)), 1.0f);
  }
  char* const target = args.output + token * args.row_bytes;
  *reinterpret_cast<uint4*>(vector_at(target, v)) = Elements<T>::pack(sums);
}

// Rows are read by ordinary loads, which go through L1. H200, 2026-11-22, of copy against
// loads that pass it by: 32768x8x4096 1.033 and 0.988, 65536x8x2048 0.975 and 0.944,
// 16384x2x4096 0.948 and 0.920. With reads that leave L2 first 0.916, 0.819 and 0.920.

// 16-byte vectors, any topK; kBatch rows in flight together.
template <typename T, int kBatch>
__global__ void __launch_bounds__(kRowThreads, sizeof(T) == 1 ? 3 : 4)
    unpermute_rows(const UnpermuteArgs args, const RowShape shape) {
  ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
  if (token >= args.num_tokens) return;
  const int num_vectors = static_cast<int>(args.row_bytes / kVectorBytes);
  for (int v = threadIdx.x % shape.width; v < num_vectors; v += shape.width) {
    float sums[Elements<T>::kCount] = {};
    for (int k = 0; k < args.topk; k += kBatch) {
      // Again for each vector, from L1: kept across the loop they cost registers,
      // and those are loads in flight.
      SlotBatch<kBatch> slots;
      slots.load(args, token, k);
      uint4 values[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        values[j] = make_uint4(0, 0, 0, 0);
        if (slots.rows[j] >= 0) {
          values[j] = ptx::load(vector_at(args.input + slots.rows[j] * args.input_pitch, v));
        }
      }
      // A dropped slot adds 0 * 0, which changes no sum: none is -0.
#pragma unroll
      for (int j = 0; j < kBatch; ++j) add_weighted<T>(sums, values[j], slots.probs[j]);
    }
    finish_vector<T>(args, token, v, sums);
  }
}

}  // namespace gg::cuda
