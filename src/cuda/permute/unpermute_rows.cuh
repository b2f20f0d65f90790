// unpermute's rows: each token's topK rows, summed. Called by unpermute.cu.
#pragma once

#include "cuda/permute/elements.cuh"
#include "cuda/permute/rows.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

struct UnpermuteArgs {
  const char* input;     // [N, h], rows input_pitch bytes apart
  char* output;          // [T, h]
  const char* residual;  // [T, h], rows residual_pitch bytes apart, or null
  FloatPointer probs;    // [T, topK] or null
  IntegerPointer map;    // [topK, T]
  Extent input_extent;
  Extent residual_extent;
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
  // Else the compiler keeps kBatch addresses across a loop, and registers spill.
  __device__ __forceinline__ void forget_addresses() {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) asm volatile("" : "+r"(rows[j]));
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

// Blocks of an SM: as many loads in flight as registers allow without spilling.
template <typename T, int kBatch>
constexpr int unpermute_blocks() {
  return kBatch == 2 ? (sizeof(T) == 1 ? 4 : 6) : sizeof(T) == 1 && kBatch == 8 ? 3 : 4;
}

// 16-byte vectors; kBatch rows in flight together, and all of them where topK is no more.
template <typename T, int kBatch>
__global__ void __launch_bounds__(kRowThreads, (unpermute_blocks<T, kBatch>()))
    unpermute_rows(const UnpermuteArgs args, const RowShape shape) {
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
  if (token >= args.num_tokens) return;
  char* const target = args.output + token * args.row_bytes;
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
          values[j] = ptx::load_once(vector_at(args.input + slots.rows[j] * args.input_pitch, v));
        }
      }
      // A dropped slot adds 0 * 0, which changes no sum: none is -0.
#pragma unroll
      for (int j = 0; j < kBatch; ++j) add_weighted<T>(sums, values[j], slots.probs[j]);
    }
    // Only now, since in flight with the rows it costs registers and so rows.
    if (args.residual != nullptr) {
      const char* residual = args.residual + token * args.residual_pitch;
      add_weighted<T>(sums, ptx::load_once(vector_at(residual, v)), 1.0f);
    }
    *reinterpret_cast<uint4*>(vector_at(target, v)) = Elements<T>::pack(sums);
  }
}

// The same for rows of any length and address, in windows of the target's rows.
template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    unpermute_unaligned_rows(const UnpermuteArgs args, const RowShape shape) {
  constexpr int kBatch = 4;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
  if (token >= args.num_tokens) return;
  const uint64_t policy = ptx::evict_first_policy();
  const Windows windows(args.output + token * args.row_bytes, args.row_bytes);
  for (int64_t window = threadIdx.x % shape.width; window < windows.count();
       window += shape.width) {
    const WindowPart part(windows, window);
    const int64_t offset = window * kVectorBytes - windows.row_at;
    float sums[Elements<T>::kCount] = {};
    for (int k = 0; k < args.topk; k += kBatch) {
      SlotBatch<kBatch> slots;
      slots.load(args, token, k);
      const char* rows[kBatch];
      bool inside = true;
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        rows[j] = args.input + slots.rows[j] * args.input_pitch;
        inside =
            inside && (slots.rows[j] < 0 || args.input_extent.surrounds(rows[j], args.row_bytes));
      }
      uint4 values[kBatch];
      if (inside) {
        RawWindow raw[kBatch];
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (slots.rows[j] >= 0) raw[j] = load_raw(rows[j] + offset);
        }
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (slots.rows[j] >= 0) values[j] = shifted(raw[j], rows[j] + offset);
        }
      } else {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (slots.rows[j] >= 0) values[j] = load_bytes(rows[j] + offset, part);
        }
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (slots.rows[j] >= 0) add_weighted<T>(sums, values[j], slots.probs[j]);
      }
    }
    if (args.residual != nullptr) {
      const char* row = args.residual + token * args.residual_pitch;
      const bool inside = args.residual_extent.surrounds(row, args.row_bytes);
      const uint4 value =
          inside ? shifted(load_raw(row + offset), row + offset) : load_bytes(row + offset, part);
      add_weighted<T>(sums, value, 1.0f);
    }
    store_window(windows.first + window * kVectorBytes, Elements<T>::pack(sums), part, policy);
  }
}

}  // namespace gg::cuda
