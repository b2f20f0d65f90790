// One operand's way into the tensor cores: from global memory to a slice in shared memory by
// cp.async, from there to fragments. Two layouts of the source, by which dimension has stride 1;
// place.h says where everything lies. What lies outside the tile, or past the end of the
// reduction, becomes zeros, is never read, and so brings no NaN into other groups' sums.
#pragma once

#include "cuda/gemm/sm80/place.h"
#include "cuda/gemm/sm80/ptx.cuh"

namespace gg::cuda::sm80 {

// Where an operand's tile begins, and how much of it there is. NOTE: nothing is read past it.
struct Source {
  const void* begin;
  int extent;     // rows (of the left operand) or columns (of the right one) of the output
  int reduction;  // elements
};

// Fragments of one step for a warp: 16 kBlocks rows, and kWarpColumns columns in pairs of eight.
template <int kBlocks>
struct LeftFragments {
  uint32_t words[kBlocks][4];
};
struct RightFragments {
  uint32_t words[kWarpColumns / 8][2];
};

// Reduction contiguous: tokens, and weights [E, N, K] as they are.
template <typename T, int kExtent, int kThreads>
struct KMajor {
  using Lies = KMajorPlace<sizeof(T), kExtent, kThreads>;
  static constexpr int kBytes = Lies::kBytes;
  static constexpr int kPasses = Lies::kPasses;
  static constexpr int kElementsPerSlice = kSliceBytes / sizeof(T);

  uint32_t pitch;  // bytes between rows
  // What is loaded next: this thread's chunk of pass 0.
  const char* from;
  int rows;       // from it to the end of the tile
  int reduction;  // likewise

  __device__ __forceinline__ void start(const Source& source) {
    const int row = threadIdx.x / Lies::kChunks, chunk = threadIdx.x % Lies::kChunks;
    from = static_cast<const char*>(source.begin) + uint64_t{static_cast<uint32_t>(row)} * pitch +
           chunk * 16;
    rows = source.extent - row;
    reduction = source.reduction - chunk * (16 / int{sizeof(T)});
  }
  template <int kPass>
  __device__ __forceinline__ void copy(uint32_t slice) const {
    constexpr uint32_t kRow = kPass * Lies::kRowsPerPass;
    const bool skip = static_cast<int>(kRow) >= (reduction > 0 ? rows : 0);
    ptx::copy_16_bytes(slice + Lies::copy_target(threadIdx.x) + kPass * Lies::kPassBytes,
                       from + uint64_t{kRow} * pitch, skip);
  }
  __device__ __forceinline__ void advance() {
    from += kSliceBytes;
    reduction -= kElementsPerSlice;
  }

  template <int kBlocks>
  __device__ __forceinline__ static void left(uint32_t slice, const Place& at, int step,
                                              LeftFragments<kBlocks>& fragments) {
    const int lane = Lies::left_lane(at);
#pragma unroll
    for (int f = 0; f < kBlocks; ++f) {
      ptx::load_matrices(slice + Lies::left(lane, step, f), fragments.words[f]);
    }
    round(fragments.words);
  }
  __device__ __forceinline__ static void right(uint32_t slice, const Place& at, int step,
                                               RightFragments& fragments) {
    const int lane = Lies::right_lane(at);
#pragma unroll
    for (int pair = 0; pair < kWarpColumns / 16; ++pair) {
      uint32_t words[4];
      ptx::load_matrices(slice + Lies::right(lane, step, pair), words);
#pragma unroll
      for (int i = 0; i < 4; ++i) fragments.words[2 * pair + i / 2][i % 2] = words[i];
    }
    round(fragments.words);
  }

  template <int kMany, int kEach>
  __device__ __forceinline__ static void round(uint32_t (&words)[kMany][kEach]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < kMany * kEach; ++i) {
        words[i / kEach][i % kEach] = ptx::round_to_tf32(words[i / kEach][i % kEach]);
      }
    }
  }
};

// Rows (or columns) of the output contiguous: weights read for dgrad, both operands of wgrad.
template <typename T, int kExtent, int kThreads>
struct MnMajor {
  using Lies = MnMajorPlace<sizeof(T), kExtent, kThreads>;
  static constexpr int kBytes = Lies::kBytes;
  static constexpr int kPasses = Lies::kPasses;

  uint32_t pitch;  // bytes between steps of the reduction
  const char* from;
  int reduction;  // from this thread's chunk of pass 0 on; 0 where the chunk is past the tile

  __device__ __forceinline__ void start(const Source& source) {
    const int k = threadIdx.x / Lies::kChunks, chunk = threadIdx.x % Lies::kChunks;
    from = static_cast<const char*>(source.begin) + uint64_t{static_cast<uint32_t>(k)} * pitch +
           chunk * 16;
    reduction = chunk * (16 / int{sizeof(T)}) < source.extent ? source.reduction - k : 0;
  }
  template <int kPass>
  __device__ __forceinline__ void copy(uint32_t slice) const {
    constexpr uint32_t kStep = kPass * Lies::kRowsPerPass;
    ptx::copy_16_bytes(slice + Lies::copy_target(threadIdx.x) + kPass * Lies::kPassBytes,
                       from + uint64_t{kStep} * pitch, static_cast<int>(kStep) >= reduction);
  }
  __device__ __forceinline__ void advance() {
    from += uint64_t{Lies::kStepsOfReduction} * pitch;
    reduction -= Lies::kStepsOfReduction;
  }

  template <int kBlocks>
  __device__ __forceinline__ static void left(uint32_t slice, const Place& at, int step,
                                              LeftFragments<kBlocks>& fragments) {
    const int lane = Lies::left_lane(at);
#pragma unroll
    for (int f = 0; f < kBlocks; ++f) {
      const int offset = Lies::left(lane, step, f);
      if constexpr (sizeof(T) == 2) {
        ptx::load_matrices_transposed(slice + offset, fragments.words[f]);
      } else {
        load_words(slice, offset, fragments.words[f][0], fragments.words[f][2]);
        load_words(slice, Lies::eight_further(offset), fragments.words[f][1],
                   fragments.words[f][3]);
      }
    }
  }
  __device__ __forceinline__ static void right(uint32_t slice, const Place& at, int step,
                                               RightFragments& fragments) {
    const int lane = Lies::right_lane(at);
#pragma unroll
    for (int pair = 0; pair < kWarpColumns / 16; ++pair) {
      const int offset = Lies::right(lane, step, pair);
      auto& low = fragments.words[2 * pair];
      auto& high = fragments.words[2 * pair + 1];
      if constexpr (sizeof(T) == 2) {
        uint32_t words[4];
        ptx::load_matrices_transposed(slice + offset, words);
#pragma unroll
        for (int i = 0; i < 4; ++i) fragments.words[2 * pair + i / 2][i % 2] = words[i];
      } else {
        load_words(slice, offset, low[0], low[1]);
        load_words(slice, Lies::eight_further(offset), high[0], high[1]);
      }
    }
  }

  // 32 bits: this lane's step of the reduction, and the one four further.
  __device__ __forceinline__ static void load_words(uint32_t slice, int offset, uint32_t& near,
                                                    uint32_t& far) {
    near = ptx::round_to_tf32(ptx::load_word(slice + offset));
    far = ptx::round_to_tf32(ptx::load_word(slice + offset + Lies::kFourSteps));
  }
};

}  // namespace gg::cuda::sm80
