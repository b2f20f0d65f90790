// K-grouped GEMM on Hopper: out[e] = left^T right over the rows of each group e,
// where left and right are dy and the tokens, or the other way round (args.h). Start
// reading at the kernel, at the end. Launched by k_grouped_launch.cu.
//
//   warp 0       producer: one thread tells the copy engine what to load
//   warp 1       scheduler: turns claimed numbers into tiles
//   warp 2       where the output is added to: the courier of old and new values
//   warps 4-11   two consumer warpgroups, 64 rows of out each: multiply, store
//
// Both operands lie in shared memory as the copy engine brings them, boxes of 64 token rows
// of 64 features, or 32 of 32. wgmma reads them so, with the features as their major dimension, if
// they have 16 bits (k_grouped_consumer.cuh); of 32 bits it does not (k_grouped_tf32_consumer.cuh).
//
// NaN or Inf of one group reaches no other: the last, partial k-block of a group holds
// zeros instead of a neighbour's rows, in both operands (load_stage). Past the last
// feature, too, the copy engine fills in zeros, and does not store.
#pragma once

#include "cuda/common/dependent_launch.cuh"
#include "cuda/gemm/sm90/k_grouped_producer.cuh"

namespace gg::cuda::sm90 {

// 128 * 40 + 256 * 232 <= 65536. 24 and 240 spill the producer.
inline constexpr int kKGroupedProducerRegisters = 40;
inline constexpr int kKGroupedConsumerRegisters = 232;

// Consumer: a warp of those that multiply, its shared memory, its Epilogue.
template <class Policy, class Consumer>
__global__ void __launch_bounds__(kThreadsOf<Policy>, 1)
    k_grouped_gemm(const __grid_constant__ KGroupedArgs args) {
  using Memory = typename Consumer::Memory;
  using Epilogue = typename Consumer::Epilogue;
  extern __shared__ uint8_t shared_bytes[];
  Memory& shared = *reinterpret_cast<Memory*>(shared_bytes);
  if (threadIdx.x == 0) {
    if (ptx::shared_address(shared_bytes) % alignof(Memory) != 0) __trap();
    init_barriers(shared);
    for (int w = 0; w < Memory::kConsumerWarps; ++w) {
      for (int i = 0; i < Policy::kSlabs; ++i) {
        ptx::mbarrier_init(shared.slab_loaded[w][i], 1);
        ptx::mbarrier_init(shared.slab_added[w][i], 1);
      }
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();

  const int warp = __shfl_sync(kWholeWarp, static_cast<int>(threadIdx.x / 32), 0);
  if (warp < kWarpgroup / 32) {
    ptx::give_registers<kKGroupedProducerRegisters>();
    if (warp == 0 && ptx::elect()) produce<Policy, Epilogue::kFetchesOld>(shared, args);
    if (warp == 1) {
      cuda::ptx::wait_for_previous_kernel();  // of sizes and counters; all else follows from a tile
      KGroupedScheduler<Policy, Epilogue::kSkipsEmpty>{args}.run(shared);
    }
    if constexpr (Policy::kHasCourier) {
      if (warp == 2 && ptx::elect()) typename Epilogue::Carrier{shared, args}.run();
    }
  } else {
    ptx::take_registers<kKGroupedConsumerRegisters>();
    // NOTE: an aggregate: made by a constructor, it cost fp32 outputs 624 bytes of spilled
    // registers.
    const int consumer_warp = warp - kWarpgroup / 32;
    Consumer{{shared}, args, consumer_warp, Epilogue(args, shared, consumer_warp)}.run();
  }
}

}  // namespace gg::cuda::sm90
