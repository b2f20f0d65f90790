// Splits a loop over the caller's threads. Used by the CPU operators.
#pragma once

#include <cstdint>

#include "grouped_gemm/types.h"

namespace gg::cpu {

// std::thread version, for callers that bring no thread pool.
void parallel_for_threads(int64_t count, int64_t grain, ParallelBody body, void* context);

// A stream whose loops run in order on the calling thread: for Path::kReference.
Stream serial_stream();

// body(begin, end) for pieces of [0, count), each of about grain or more.
template <typename Body>
void parallel_for(const Stream& stream, int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  if (count <= grain) return body(int64_t{0}, count);
  const ParallelFor split =
      stream.parallel_for != nullptr ? stream.parallel_for : parallel_for_threads;
  split(
      count, grain,
      [](int64_t begin, int64_t end, void* context) {
        (*static_cast<const Body*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Rows of h elements that make a piece worth a thread.
inline int64_t rows_per_piece(int64_t row_bytes) {
  constexpr int64_t kPieceBytes = 64 * 1024;
  return row_bytes >= kPieceBytes ? 1 : kPieceBytes / (row_bytes > 0 ? row_bytes : 1);
}

}  // namespace gg::cpu
