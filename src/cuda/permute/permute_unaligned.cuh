// permute's rows of any length and address: a warp reads a piece of a token's row once, keeps
// it in registers and shifts it to where each slot's row lies. Called by permute_rows.cu. Start
// at permute_unaligned_rows.
//
// Why registers: permute's kernels leave L1 28 KB (kSharedPercent), less than the rows at work
// on an SM, so that a row read again for each target came from L2 nearly every time; and the
// threads of a block that shared targets waited for the map before anything was read. So a
// warp waits for its map and its piece together, once, then only stores: 75 instructions a
// target and 1024 bytes, edges included, where at copy's rate an H200 has time for 250.
#pragma once

#include "cuda/permute/fast_div.h"
#include "cuda/permute/permute_rows.cuh"
#include "cuda/permute/window.cuh"

namespace gg::cuda {

inline constexpr int kWarpLanes = 32;
inline constexpr int kWarpsPerBlock = kRowThreads / kWarpLanes;
inline constexpr int kWindowsOfLane = 2;  // in registers
inline constexpr int kPieceWindows = kWarpLanes * kWindowsOfLane;

// A token's row in the input, as vectors at 16-byte boundaries.
struct SourceRow {
  const char* vectors;  // where the first one lies
  int64_t bytes;
  int at;  // of the row's first byte in the first vector
  bool is_inner;

  __device__ __forceinline__ SourceRow(const PermuteRowsArgs& args, int64_t token)
      : bytes(args.row_bytes), is_inner(args.inner_rows.contain(token)) {
    const char* const row = args.input + token * args.input_pitch;
    at = static_cast<int>(reinterpret_cast<uintptr_t>(row) % kVectorBytes);
    vectors = row - at;
  }
  // A window of a target begins in a vector below it, which ends within the row: any that
  // begins in a later one would end beyond.
  __device__ __forceinline__ int end() const {
    return static_cast<int>((at + bytes) / kVectorBytes);
  }
  // The v-th vector; behind the row, which no window uses, any of its bytes.
  __device__ __forceinline__ uint4 load(int v) const {
    v = min(v, static_cast<int>((at + bytes - 1) / kVectorBytes));
    if (is_inner) return ptx::load(vector_at(vectors, v));
    const int64_t first = at - static_cast<int64_t>(v) * kVectorBytes;  // of the row
    return load_bytes(vector_at(vectors, v),
                      {static_cast<int>(max(first, int64_t{0})),
                       static_cast<int>(min(first + bytes, int64_t{kVectorBytes}))});
  }
};

// 32 bytes of the source, of which a target's window begins at one of the first 16: at the same
// one in all lanes.
struct TwoVectors {
  uint32_t words[8];
  int least;  // where a whole window of the row may begin: from here on,
  int most;   // up to here

  __device__ __forceinline__ void load(const SourceRow& source, int v) {
    const uint4 low = source.load(v);
    const uint4 high = source.load(v + 1);
    const int64_t before = static_cast<int64_t>(v) * kVectorBytes - source.at;  // of the row
    words[0] = low.x, words[1] = low.y, words[2] = low.z, words[3] = low.w;
    words[4] = high.x, words[5] = high.y, words[6] = high.z, words[7] = high.w;
    least = static_cast<int>(max(-before, int64_t{0}));
    most = static_cast<int>(min(source.bytes - before, int64_t{2 * kVectorBytes})) - kVectorBytes;
  }
  template <int kWord>
  __device__ __forceinline__ uint4 window(int shift) const {
    return make_uint4(__funnelshift_r(words[kWord], words[kWord + 1], shift),
                      __funnelshift_r(words[kWord + 1], words[kWord + 2], shift),
                      __funnelshift_r(words[kWord + 2], words[kWord + 3], shift),
                      __funnelshift_r(words[kWord + 3], words[(kWord + 4) % 8], shift));
  }
};

// The bytes that may lie before a target's first or after its last whole window: one a lane, a
// row's first 16 and last 16, so that a target's edges are one store of its warp.
struct EdgeByte {
  int64_t at;  // in the row
  int reach;   // an edge of more bytes has it
  char value;

  __device__ __forceinline__ EdgeByte(const PermuteRowsArgs& args, int64_t token, int lane) {
    const bool is_head = lane < kVectorBytes;
    at = is_head ? lane : args.row_bytes - kWarpLanes + lane;
    const bool is_there = at >= 0 && at < args.row_bytes;
    reach = !is_there ? kVectorBytes : is_head ? lane : kWarpLanes - 1 - lane;
    value = is_there ? args.input[token * args.input_pitch + at] : 0;
  }
  // `first`: of the row's bytes the one at its first 16-byte boundary. A row that ends before
  // it may write a byte twice, as the same.
  __device__ __forceinline__ void store(char* row, int64_t row_bytes, int first, int lane) const {
    const int tail = static_cast<int>(row_bytes - first) & (kVectorBytes - 1);
    if ((lane < kVectorBytes ? first : tail) > reach) row[at] = value;
  }
};

// The whole windows of a target: `to` is where this lane's vectors go, `begin` where in them
// windows begin. They leave L2 first, edges do not: the neighbouring row's are to join them.
template <int kWord>
__device__ __forceinline__ void store_windows(const TwoVectors (&vectors)[kWindowsOfLane], char* to,
                                              int begin, uint64_t policy) {
#pragma unroll
  for (int u = 0; u < kWindowsOfLane; ++u) {
    if (begin < vectors[u].least || begin > vectors[u].most) continue;
    ptx::store_evict_first(to + begin + u * kWarpLanes * kVectorBytes,
                           vectors[u].window<kWord>(begin * 8), policy);
  }
}

// Vectors `first` and following of a token's row, to all its targets; by a warp.
__device__ __forceinline__ void permute_piece(const PermuteRowsArgs& args, const SourceRow& source,
                                              int64_t token, int first, uint64_t policy) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  TwoVectors vectors[kWindowsOfLane];
#pragma unroll
  for (int u = 0; u < kWindowsOfLane; ++u) vectors[u].load(source, first + lane + u * kWarpLanes);
  const EdgeByte edge(args, token, lane);
  const int64_t offset = static_cast<int64_t>(first + lane) * kVectorBytes - source.at;
  // Only now: the input was complete before the row map began, or the thread has waited.
  ptx::wait_for_previous_kernel();
  for (int k = 0; k < args.topk; k += kWarpLanes) {
    int64_t entry = -1;  // a slot's in each lane
    if (k + lane < args.topk) entry = args.row_id_map.load((k + lane) * args.num_tokens + token);
    const int row_of_lane = entry < args.num_out ? static_cast<int>(entry) : -1;
    unsigned slots = __ballot_sync(~0u, row_of_lane >= 0);
#pragma unroll 1
    for (; slots != 0; slots &= slots - 1) {
      char* const row =
          args.output + __shfl_sync(~0u, row_of_lane, __ffs(slots) - 1) * args.row_bytes;
      const int head = static_cast<int>(-reinterpret_cast<uintptr_t>(row) % kVectorBytes);
      if (first == 0) edge.store(row, args.row_bytes, head, lane);
      const int begin = (source.at + head) % kVectorBytes;
      char* const to = row + offset;
      switch (begin / 4) {  // the same in all lanes: words are named, not selected
        case 0: store_windows<0>(vectors, to, begin, policy); break;
        case 1: store_windows<1>(vectors, to, begin, policy); break;
        case 2: store_windows<2>(vectors, to, begin, policy); break;
        default: store_windows<3>(vectors, to, begin, policy); break;
      }
    }
  }
}

// permute_rows for rows of any length and address, cut into `pieces` of kPieceWindows vectors;
// a row's last vector may be one more, which falls to the first piece's warp.
__global__ void __launch_bounds__(kRowThreads, blocks_of_sm(5))
    permute_unaligned_rows(const PermuteRowsArgs args, const FastDiv pieces) {
  const uint32_t warp = blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarpLanes;
  const uint32_t token = pieces.quotient(warp);
  const int piece = static_cast<int>(warp - token * pieces.divisor);
  const uint64_t policy = ptx::evict_first_policy();
  if (args.waits_first) ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  if (token < args.num_tokens) {
    if (piece == 0 && threadIdx.x % kWarpLanes == 0) fetch_ahead(args, token);
    const SourceRow source(args, token);
    const int stride = static_cast<int>(pieces.divisor) * kPieceWindows;
    for (int first = piece * kPieceWindows; first < max(source.end(), 1); first += stride) {
      permute_piece(args, source, token, first, policy);
    }
  }
  ptx::wait_for_previous_kernel();
  args.clear_empty_rows({kWarpLanes});
}

}  // namespace gg::cuda
