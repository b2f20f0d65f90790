// How many rows permute has in hand at once: pure host functions, tested without a GPU.
#pragma once

#include "base/math.h"
#include "grouped_gemm/types.h"

namespace gg::cuda {

// Blocks of so many threads that share a multiprocessor, by their 48 registers a thread.
template <int kThreads>
inline constexpr int kMostBlocks = 1280 / kThreads;

struct PermuteRowsPolicy {
  int threads = 256;               // of a block, or 512
  int64_t spare_shared_bytes = 0;  // of a block, for nothing but to keep others off

  bool operator==(const PermuteRowsPolicy&) const = default;
};

// The fewer rows are being written at once, the longer the pieces that DRAM gets to write; with
// too few it waits. A multiprocessor does best with some 96 KB of writes in hand. H200,
// 2026-11-29, of copy, steady, by blocks of a multiprocessor (before: 6 of 256 threads, which
// had 4 KB of a row each):
//
//   65536x8x2048, 256 threads   6: 0.897, 4: 0.920, 3: 0.936
//   16384x8x2048, 256 threads   6: 0.893, 4: 0.913, 3: 0.910, 2: 0.864
//   32768x8x4096                6: 0.913, 512 threads, 2: 0.937, 1: 0.803, 256 threads, 2: 0.934
//   4096x8x5120                 6: 0.890, 512 threads, 2: 0.932, 1: 0.869
//   8192x8x7168                 6: 0.883, 512 threads, 2: 0.899, 1: 0.914
//   16384x2x4096                6: 0.949, 256 threads, 4: 0.949, 3: 0.899
//
// Shorter rows, outputs that stay in L2 and other devices have not been measured.
inline PermuteRowsPolicy permute_rows_policy(int64_t row_bytes, int64_t topk, int64_t num_tokens,
                                             const DeviceLimits& limits) {
  constexpr int64_t kLeastRowBytes = 4 * 1024;
  constexpr int64_t kLeastOutputBytes = 128 << 20;
  constexpr int64_t kBytesInHand = 96 * 1024;
  constexpr int64_t kSystemBytes = 1024;  // of a block; a multiprocessor has as much more
  PermuteRowsPolicy policy;
  if (limits.compute_capability != 90 || row_bytes < kLeastRowBytes) return policy;
  if (row_bytes * topk * num_tokens < kLeastOutputBytes) return policy;
  const auto in_hand = [&](int threads) {  // of a block: at most two vectors a thread
    return topk * base::min(row_bytes, int64_t{threads} * 32);
  };
  int most = kMostBlocks<256>;
  if (row_bytes > 256 * 32 && kMostBlocks<512> * in_hand(512) >= kBytesInHand) {
    policy.threads = 512;
    most = kMostBlocks<512>;
  }
  const int64_t blocks = base::ceil_div(kBytesInHand, in_hand(policy.threads));
  if (blocks < most) {
    policy.spare_shared_bytes =
        (limits.shared_bytes_per_block + kSystemBytes) / blocks - kSystemBytes;
  }
  return policy;
}

}  // namespace gg::cuda
