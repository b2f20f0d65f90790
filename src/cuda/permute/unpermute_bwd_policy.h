// How many 16-byte vectors of a row a thread of unpermute's backward takes: a pure host function,
// tested without a GPU.
#pragma once

#include <cstdint>

namespace gg::cuda {

// The more it takes, the fewer threads add up their products where probs have a gradient. H200,
// 2026-11-23, of copy with 1, 4 and 8: 65536x8x2048 0.861, 0.896 and 0.893, 8192x8x2048 0.892,
// 0.895 and 0.876, 16384x2x4096 0.851, 0.894 and 0.912; without such a gradient, with 1 and 4:
// 65536x8x2048 0.860 and 0.855, 16384x2x4096 0.869 and 0.900.
//
// Where that leaves multiprocessors without a block, fewer. H200, 2026-11-29, us back to back, as
// above and here: 64x8x2048 8.3 and 4.4, 512x2x4096 12.0 and 7.4, 512x8x2048 11.9 and 11.4, one
// token of 4096 6.4 and 5.0.
// NOTE: so the order in which a token's products are summed up, and the last bits of its probs'
// gradients, follow from the number of tokens and of multiprocessors, too.
inline int64_t vectors_of_thread(int64_t vectors_of_row, int64_t num_tokens, int64_t topk,
                                 bool dots, int64_t num_sms) {
  constexpr int64_t kThreads = 256;  // of a block
  int64_t vectors = topk <= 2 ? (dots ? 8 : 4) : (dots ? 4 : 1);
  while (vectors > 1 && num_tokens * vectors_of_row < num_sms * kThreads * vectors) vectors /= 2;
  return vectors;
}

}  // namespace gg::cuda
