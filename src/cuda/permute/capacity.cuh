// Per-expert capacity: which of an expert's slots stay, and the final row map.
// Called by row_map.cu after a map without capacity, whose inverse lists every
// expert's slots in order. A block for each expert.
//
//   find_group        where the expert's rows begin: the others before it keep what
//                     their capacity allows
//   find_threshold    the key of the last slot that is kept, a byte at a time
//   place_kept        in slot order: slots above the threshold, and as many of those
//                     at it as there is room for
#pragma once

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "cuda/permute/ptx.cuh"
#include "cuda/permute/row_map.cuh"

namespace gg::cuda {

inline constexpr int kCapacityThreads = 256;

struct CapacityArgs {
  RowMapArgs map;               // of the final map; counts and facts are not used
  const int* sorted_slots;      // [num_slots] all slots that have an expert, by expert
  const int* slots_per_expert;  // [E]
  const int* slot_ends;         // [E] cumulative ends in sorted_slots
  FloatPointer probs;           // [T, topK], or null: the first slots are kept
  int capacity;

  // Larger is kept first. NaN is as low as -Inf, and -0 is 0.
  __device__ __forceinline__ uint32_t key(int slot) const {
    if (probs.data == nullptr) return 0;
    const float prob = probs.load(slot) + 0.0f;
    const uint32_t bits = __float_as_uint(isnan(prob) ? -INFINITY : prob);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  }
};

// First row of this block's expert, and where the last group ends; for all threads.
struct Group {
  int first_row;
  int end_of_groups;
};

__device__ inline Group find_group(const CapacityArgs& args) {
  using Reduce = cub::BlockReduce<int, kCapacityThreads>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ Group group;
  const int expert = static_cast<int>(blockIdx.x);
  int before = 0;
  int all = 0;
  for (int e = threadIdx.x; e < args.map.num_experts; e += kCapacityThreads) {
    const int rows = args.map.padded(min(args.slots_per_expert[e], args.capacity));
    all += rows;
    if (e < expert) before += rows;
  }
  before = Reduce(storage).Sum(before);
  __syncthreads();
  all = Reduce(storage).Sum(all);
  if (threadIdx.x == 0) group = {before, all};
  __syncthreads();
  return group;
}

struct Threshold {
  uint32_t key;
  int num_at;  // slots with this key that are kept; all with a larger one are
};

// The `num_kept`-th largest key of `slots`; 0 < num_kept < num_slots.
__device__ inline Threshold find_threshold(const CapacityArgs& args, const int* slots,
                                           int num_slots, int num_kept) {
  static_assert(kCapacityThreads == 256, "a thread for each value of a byte");
  using Scan = cub::BlockScan<int, kCapacityThreads>;
  __shared__ typename Scan::TempStorage scan;
  __shared__ int histogram[kCapacityThreads];
  __shared__ Threshold found;
  if (threadIdx.x == 0) found = {0, num_kept};
  for (int shift = 24; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    // Keys that agree with what is found so far.
    const uint32_t prefix = found.key;
    for (int i = threadIdx.x; i < num_slots; i += kCapacityThreads) {
      const uint32_t key = args.key(slots[i]);
      const bool agrees = shift == 24 || key >> (shift + 8) == prefix >> (shift + 8);
      if (agrees) atomicAdd(&histogram[key >> shift & 0xff], 1);
    }
    __syncthreads();
    const int byte = 255 - static_cast<int>(threadIdx.x);  // the largest first
    const int wanted = found.num_at;
    int above;
    Scan(scan).ExclusiveSum(histogram[byte], above);
    __syncthreads();
    if (above < wanted && wanted <= above + histogram[byte]) {  // one thread
      found = {prefix | static_cast<uint32_t>(byte) << shift, wanted - above};
    }
    __syncthreads();
  }
  return found;
}

__device__ inline void place_kept(const CapacityArgs& args, const int* slots, int num_slots,
                                  int first_row, Threshold threshold) {
  using Scan = cub::BlockScan<int, kCapacityThreads>;
  __shared__ typename Scan::TempStorage scan;
  int above = 0;  // slots so far with a key above the threshold's, and with that key
  int at = 0;
  for (int first = 0; first < num_slots; first += kCapacityThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const bool is_slot = i < num_slots;
    const int slot = is_slot ? slots[i] : 0;
    const uint32_t key = is_slot ? args.key(slot) : 0;
    const bool is_above = is_slot && key > threshold.key;
    const bool is_at = is_slot && key == threshold.key;
    int before;  // both counts, of which 256 fit into 16 bits
    int sum;
    Scan(scan).ExclusiveSum((is_above ? 1 : 0) + (is_at ? 1 << 16 : 0), before, sum);
    const int above_before = above + (before & 0xffff);
    const int at_before = at + (before >> 16);
    const bool is_kept = is_above || (is_at && at_before < threshold.num_at);
    const int row = first_row + above_before + min(at_before, threshold.num_at);
    if (is_slot) args.map.place(slot, is_kept ? row : -1);
    above += sum & 0xffff;
    at += sum >> 16;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kCapacityThreads) keep_slots(const CapacityArgs args) {
  ptx::let_next_kernel_start();
  ptx::wait_for_previous_kernel();
  const int expert = static_cast<int>(blockIdx.x);
  const int num_slots = args.slots_per_expert[expert];
  const int* slots = args.sorted_slots + (args.slot_ends[expert] - num_slots);
  const int num_kept = min(num_slots, args.capacity);
  const Group group = find_group(args);
  Threshold threshold{0, num_kept};  // every key is at it: the first ones are kept
  if (args.probs.data != nullptr && num_kept > 0 && num_kept < num_slots) {
    threshold = find_threshold(args, slots, num_slots, num_kept);
  } else if (args.probs.data != nullptr && num_kept == 0) {
    threshold.key = UINT32_MAX;  // and no key is above
  }
  place_kept(args, slots, num_slots, group.first_row, threshold);
  if (threadIdx.x == 0) args.map.write_group(expert, group.first_row, num_kept);
  args.map.mark_empty_rows(group.end_of_groups);
  if (expert == 0 && threadIdx.x == 0) *args.map.num_kept = group.end_of_groups;
}

}  // namespace gg::cuda
