// Slices of the reduction on their way: a ring of stages in shared memory, each with a slice of the
// left and of the right operand. One is multiplied while those behind it are copied.
#pragma once

#include "cuda/gemm/sm80/operands.cuh"

namespace gg::cuda::sm80 {

template <class Left, class Right, int kStages>
struct Slices {
  static constexpr int kStageBytes = Left::kBytes + Right::kBytes;
  static constexpr int kLookahead = kStages - 1;  // slices on their way while one is multiplied
  static constexpr int kPasses = Left::kPasses + Right::kPasses;

  const uint32_t stages;  // shared memory
  Left left;
  Right right;
  uint32_t load_at = stages, read_at = stages;  // one of the stages

  __device__ __forceinline__ uint32_t left_slice() const { return read_at; }
  __device__ __forceinline__ uint32_t right_slice() const { return read_at + Left::kBytes; }

  // The slices of another tile.
  __device__ __forceinline__ void start(const Source& left_source, const Source& right_source) {
    left.start(left_source);
    right.start(right_source);
  }

  // The copies of one slice, in kParts parts. They go to the stage that was read before the
  // present one.
  template <int kPart, int kParts>
  __device__ __forceinline__ void load_part() {
    load_passes<kPart * kPasses / kParts, (kPart + 1) * kPasses / kParts>();
  }
  template <int kPass, int kEnd>
  __device__ __forceinline__ void load_passes() {
    if constexpr (kPass < kEnd) {
      if constexpr (kPass < Left::kPasses) {
        left.template copy<kPass>(load_at);
      } else {
        right.template copy<kPass - Left::kPasses>(load_at + Left::kBytes);
      }
      load_passes<kPass + 1, kEnd>();
    }
  }

  // A slice's copies are all issued (perhaps none).
  __device__ __forceinline__ void finish_loads() {
    ptx::commit_copies();
    left.advance();
    right.advance();
    load_at = stage_after(load_at);
  }

  // The next slice has arrived, and all warps have read the last fragments of the one before.
  __device__ __forceinline__ void wait() const {
    ptx::wait_copies<kLookahead - 1>();
    __syncthreads();
  }
  __device__ __forceinline__ void wait_for_next() {
    wait();
    read_at = stage_after(read_at);
  }

 private:
  __device__ __forceinline__ uint32_t stage_after(uint32_t stage) const {
    stage += kStageBytes;
    return stage == stages + kStages * kStageBytes ? stages : stage;
  }
};

}  // namespace gg::cuda::sm80
