// unpermute for rows of any length and address, in windows of the target's rows
// (window.cuh). Called by unpermute.cu. Start at unpermute_unaligned_rows.
#pragma once

#include "cuda/permute/unpermute_rows.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

// A slot's row as all threads of its token read it: worked out once for a block, kept in
// shared memory, fetched by one load.
struct alignas(16) SlotRow {
  static constexpr uint32_t kOuter = 1u << 30;  // next to Funnel's bits

  const char* piece;  // of the first whole window; null where the slot is dropped
  uint32_t funnel;    // and kOuter: pieces would leave the matrix
  float prob;

  __device__ __forceinline__ static SlotRow of(const char* address, bool is_inner, float prob) {
    return {piece_at(address), Funnel::of(address).bits | (is_inner ? 0 : kOuter), prob};
  }
  __device__ __forceinline__ const char* address() const {
    return piece + (funnel % 32 / 8 + ((funnel & Funnel::kSkipsWord) != 0 ? 4 : 0));
  }
};

// A residual is one more row, with a prob of 1.
__device__ __forceinline__ SlotRow slot_row(const UnpermuteArgs& args, int64_t token, int slot) {
  const int64_t first = Windows(args.output + token * args.row_bytes, args.row_bytes).first;
  if (slot == args.topk) {
    return SlotRow::of(args.residual + token * args.residual_pitch + first,
                       args.inner_residual_rows.contain(token), 1.0f);
  }
  const int64_t row = args.map.load(slot * args.num_tokens + token);
  const float prob = args.probs.data != nullptr ? args.probs.load(token * args.topk + slot) : 1.0f;
  if (row < 0 || row >= args.num_rows) return {};
  return SlotRow::of(args.input + row * args.input_pitch + first, args.inner_rows.contain(row),
                     prob);
}

// How a block shares its tokens out, and how many slots of each it keeps in shared memory,
// a multiple of those that are added at once.
struct UnpermuteShape {
  RowShape rows;
  int slots;
};

// The rows of `shape.slots` slots from the k-th on, of all tokens of the block. By all threads.
__device__ __forceinline__ void share_slot_rows(const UnpermuteArgs& args,
                                                const UnpermuteShape& shape, int num_slots, int k,
                                                SlotRow* shared) {
  const int num_rows = shape.rows.rows_per_block();
  __syncthreads();  // of the slots before them nothing is needed any more
  for (int i = threadIdx.x; i < num_rows * shape.slots; i += kRowThreads) {
    const int row = i % num_rows;
    const int slot = i / num_rows;
    const int64_t token = static_cast<int64_t>(blockIdx.x) * num_rows + row;
    SlotRow value{};
    if (token < args.num_tokens && k + slot < num_slots) value = slot_row(args, token, k + slot);
    shared[row * shape.slots + slot] = value;
  }
  __syncthreads();
}

// A window of kAtOnce rows, in flight together, added to the sums.
template <typename T, int kAtOnce>
__device__ __forceinline__ void add_windows(const SlotRow* shared, int64_t offset,
                                            const WindowPart& part,
                                            float (&sums)[Elements<T>::kCount]) {
  SlotRow rows[kAtOnce];
  uint32_t facts = 0;
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) {
    rows[j] = shared[j];
    facts |= rows[j].funnel;
  }
  if ((facts & SlotRow::kOuter) != 0) {  // few rows of a matrix
#pragma unroll 1
    for (int j = 0; j < kAtOnce; ++j) {
      const SlotRow row = shared[j];
      if (row.piece == nullptr) continue;
      add_weighted<T>(sums, load_bytes(row.address() + offset, part), row.prob);
    }
    return;
  }
  RawWindow raw[kAtOnce] = {};
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) {
    if (rows[j].piece != nullptr) raw[j] = load_raw(rows[j].piece + offset);
  }
  // A dropped slot adds 0 * 0, which changes no sum: none is -0.
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) {
    add_weighted<T>(sums, shifted(raw[j], {rows[j].funnel}), rows[j].prob);
  }
}

// A thread's window in one round of a block: first the whole ones of all its rows, then
// their heads and tails side by side.
struct RoundOfWindows {
  int row;  // of the block
  int64_t offset;
  WindowPart part{0, 0};  // empty where there is nothing to do

  __device__ __forceinline__ RoundOfWindows(const UnpermuteArgs& args, RowShape shape, int round,
                                            int num_whole_rounds) {
    const int num_rows = shape.rows_per_block();
    int window = threadIdx.x % shape.width + round * shape.width;
    row = threadIdx.x / shape.width;
    int edge = 0;
    if (round >= num_whole_rounds) {
      // By threads that have no row, or by a warp that differs from block to block.
      const int idle = num_rows * shape.width;
      const int first = kRowThreads - idle >= 2 * num_rows ? idle : blockIdx.x % 8 * 32;
      edge = (threadIdx.x + kRowThreads - first) % kRowThreads +
             (round - num_whole_rounds) * kRowThreads;
      row = edge / 2;
    }
    offset = 0;
    const int64_t token = static_cast<int64_t>(blockIdx.x) * num_rows + row;
    if (row >= num_rows || token >= args.num_tokens) return;
    const Windows windows(args.output + token * args.row_bytes, args.row_bytes);
    if (round < num_whole_rounds) {
      if (window < windows.num_whole) part = WindowPart::whole();
    } else if (edge % 2 == 0) {
      window = -1;
      part = windows.head();
    } else {
      window = windows.num_whole;
      part = windows.tail();
    }
    // From the first whole window, as SlotRow counts.
    offset = static_cast<int64_t>(window) * kVectorBytes;
  }
};

// unpermute_rows for rows of any length and address. One loop for windows and edges: its code
// fits into the instruction cache.
template <typename T, int kAtOnce>
__global__ void __launch_bounds__(kRowThreads, 4)
    unpermute_unaligned_rows(const UnpermuteArgs args, const UnpermuteShape shape) {
  extern __shared__ SlotRow slot_rows[];  // [rows_per_block, slots]
  ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  const uint64_t policy = ptx::evict_first_policy();
  const int num_slots = args.topk + (args.residual != nullptr ? 1 : 0);
  const int num_rows = shape.rows.rows_per_block();
  const int most = static_cast<int>(args.row_bytes / kVectorBytes);
  const int num_whole_rounds = (most + shape.rows.width - 1) / shape.rows.width;
  const int num_rounds = num_whole_rounds + (2 * num_rows + kRowThreads - 1) / kRowThreads;
  for (int round = 0; round < num_rounds; ++round) {
    const RoundOfWindows mine(args, shape.rows, round, num_whole_rounds);
    float sums[Elements<T>::kCount] = {};
    for (int k = 0; k < num_slots; k += shape.slots) {
      if (round == 0 || num_slots > shape.slots) {
        share_slot_rows(args, shape, num_slots, k, slot_rows);
      }
      if (mine.part.is_empty()) continue;
      const SlotRow* const rows = slot_rows + mine.row * shape.slots;
      const int count = min(shape.slots, num_slots - k);
#pragma unroll 1
      for (int j = 0; j < count; j += kAtOnce) {
        add_windows<T, kAtOnce>(rows + j, mine.offset, mine.part, sums);
      }
    }
    if (mine.part.is_empty()) continue;
    char* const row =
        args.output + (static_cast<int64_t>(blockIdx.x) * num_rows + mine.row) * args.row_bytes;
    const int first = Windows(row, args.row_bytes).first;
    store_window(row + first + mine.offset, Elements<T>::pack(sums), mine.part, policy);
  }
}

}  // namespace gg::cuda
