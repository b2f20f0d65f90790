// unpermute and its backward: every token is one row of threads.
#pragma once

#include "cuda/common/number.cuh"
#include "cuda/permute/rows.cuh"

namespace gg::cuda {

struct RowMapView {
  IntegerPointer entries;  // [topK, T]
  int num_tokens;
  int topk;
  int64_t num_rows;

  // Row of a token's k-th slot, or -1 where it is dropped or out of range.
  __device__ int64_t row(int64_t token, int k) const {
    const int64_t entry = entries.load(static_cast<int64_t>(k) * num_tokens + token);
    return entry >= 0 && entry < num_rows ? entry : -1;
  }
};

struct UnpermuteArgs {
  const void* input;   // [N, h], rows input_pitch elements apart
  void* output;        // [T, h]
  FloatPointer probs;  // [T, topK] or null
  RowMapView map;
  int64_t input_pitch;
  int64_t hidden;
};

// Products and sums are rounded one by one, never fused, so that the CPU path
// gives the same bits.
template <typename T, int kCount>
__device__ __forceinline__ void add_weighted(float (&sums)[kCount], const Vector<T, kCount>& row,
                                             bool weighted, float prob) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float value = to_float(row.values[i]);
    sums[i] = __fadd_rn(sums[i], weighted ? __fmul_rn(prob, value) : value);
  }
}

template <typename T, int kCount>
__global__ void __launch_bounds__(kRowThreads) unpermute_rows(UnpermuteArgs args, RowShape shape) {
  using Row = Vector<T, kCount>;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
  if (token >= args.map.num_tokens) return;
  const bool weighted = args.probs.data != nullptr;
  for (int64_t v = threadIdx.x % shape.width; v < args.hidden / kCount; v += shape.width) {
    float sums[kCount] = {};
#pragma unroll 4
    for (int k = 0; k < args.map.topk; ++k) {
      const int64_t row = args.map.row(token, k);
      if (row < 0) continue;
      const float prob = weighted ? args.probs.load(token * args.map.topk + k) : 1.0f;
      const T* source = static_cast<const T*>(args.input) + row * args.input_pitch;
      add_weighted<T, kCount>(sums, reinterpret_cast<const Row*>(source)[v], weighted, prob);
    }
    Row result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) result.values[i] = from_float<T>(sums[i]);
    reinterpret_cast<Row*>(static_cast<T*>(args.output) + token * args.hidden)[v] = result;
  }
}

struct UnpermuteBwdArgs {
  const void* output_grad;  // [T, h], rows grad_pitch elements apart
  const void* input;        // [N, h], rows input_pitch elements apart, or null
  void* input_grad;         // [N, h] or null
  float* probs_grad;        // [T, topK] or null
  FloatPointer probs;       // [T, topK] or null
  RowMapView map;
  uint8_t* is_written;  // scratch [N]: rows of input_grad that have a slot
  int64_t grad_pitch;
  int64_t input_pitch;
  int64_t hidden;
};

// One slot, by one warp: the row's gradient and its prob's.
template <typename T, int kCount>
__device__ __forceinline__ void slot_backward(const UnpermuteBwdArgs& args, int64_t token, int k,
                                              int lane) {
  using Row = Vector<T, kCount>;
  const int64_t row = args.map.row(token, k);
  const int64_t slot = token * args.map.topk + k;
  const bool weighted = args.probs.data != nullptr;
  const Row* grad = reinterpret_cast<const Row*>(static_cast<const T*>(args.output_grad) +
                                                 token * args.grad_pitch);
  const Row* input =
      reinterpret_cast<const Row*>(static_cast<const T*>(args.input) + row * args.input_pitch);
  Row* input_grad = reinterpret_cast<Row*>(static_cast<T*>(args.input_grad) + row * args.hidden);
  float dot = 0.0f;
  if (row >= 0) {
    const float prob = weighted ? args.probs.load(slot) : 1.0f;
    for (int64_t v = lane; v < args.hidden / kCount; v += 32) {
      const Row grads = grad[v];
      if (args.probs_grad != nullptr) {
        const Row values = input[v];
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          dot += to_float(grads.values[i]) * to_float(values.values[i]);
        }
      }
      if (args.input_grad != nullptr) {
        Row scaled = grads;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          if (weighted) scaled.values[i] = from_float<T>(prob * to_float(grads.values[i]));
        }
        input_grad[v] = scaled;
      }
    }
    if (args.input_grad != nullptr && lane == 0) args.is_written[row] = 1;
  }
  if (args.probs_grad == nullptr) return;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, step);
  if (lane == 0) args.probs_grad[slot] = dot;
}

template <typename T, int kCount>
__global__ void __launch_bounds__(kRowThreads) unpermute_rows_bwd(UnpermuteBwdArgs args) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + threadIdx.x / 32;
  if (token >= args.map.num_tokens) return;
  for (int k = 0; k < args.map.topk; ++k) {
    slot_backward<T, kCount>(args, token, k, threadIdx.x % 32);
  }
}

// Zeros for the rows of input_grad that no slot has written.
template <int kBytes>
__global__ void __launch_bounds__(kRowThreads)
    clear_unwritten_rows(char* grad, const uint8_t* is_written, int64_t num_rows, int64_t row_bytes,
                         RowShape shape) {
  using Bytes = typename BytesOf<kBytes>::type;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * shape.rows_per_block();
  for (int64_t row =
           static_cast<int64_t>(blockIdx.x) * shape.rows_per_block() + threadIdx.x / shape.width;
       row < num_rows; row += stride) {
    if (is_written[row] != 0) continue;
    Bytes* target = reinterpret_cast<Bytes*>(grad + row * row_bytes);
    for (int64_t v = threadIdx.x % shape.width; v < row_bytes / kBytes; v += shape.width) {
      target[v] = Bytes{};
    }
  }
}

}  // namespace gg::cuda
