// sort_chunks on the CPU: where each chunk goes, then its rows.
#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/door.h"
#include "cpu/parallel.h"

namespace gg::cpu {
namespace {

// Writes row_id_map; `starts` has room for two int64 a chunk. Returns how many
// rows of the output are filled.
int64_t write_map(const SortChunksProblem& problem, int64_t* starts) {
  const int64_t num_chunks = problem.split_sizes.size(0);
  const int64_t num_rows = problem.input.size(0);
  int64_t* target_starts = starts + num_chunks;
  int64_t start = 0;
  for (int64_t c = 0; c < num_chunks; ++c) {
    starts[c] = start;
    target_starts[c] = -1;
    start += load_integer(problem.split_sizes, c);
  }
  int64_t target = 0;
  for (int64_t i = 0; i < num_chunks; ++i) {
    const int64_t c = load_integer(problem.sorted_index, i);
    if (target_starts[c] >= 0) continue;  // named before
    target_starts[c] = target;
    target += load_integer(problem.split_sizes, c);
  }
  int32_t* map = static_cast<int32_t*>(problem.row_id_map.data);
  std::fill(map, map + num_rows, -1);
  for (int64_t c = 0; c < num_chunks; ++c) {
    if (target_starts[c] < 0) continue;
    for (int64_t r = 0; r < load_integer(problem.split_sizes, c); ++r) {
      map[starts[c] + r] = static_cast<int32_t>(target_starts[c] + r);
    }
  }
  return target;
}

// Copies rows of so many bytes; zeros from `num_filled` on.
void move_rows(const SortChunksProblem& problem, const TensorView& from, const TensorView& to,
               int64_t row_elements, int64_t num_filled, Stream stream) {
  const int64_t num_rows = problem.input.size(0);
  const size_t row_bytes = static_cast<size_t>(row_elements * size_of(from.dtype));
  const int64_t pitch = from.stride(0) * size_of(from.dtype);
  const int32_t* map = static_cast<const int32_t*>(problem.row_id_map.data);
  const char* source = static_cast<const char*>(from.data);
  char* target = static_cast<char*>(to.data);
  if (row_bytes == 0 || num_rows == 0) return;
  parallel_for(stream, num_rows, rows_per_piece(static_cast<int64_t>(row_bytes)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) {
                   if (map[row] < 0) continue;
                   std::memcpy(target + static_cast<size_t>(map[row]) * row_bytes,
                               source + row * pitch, row_bytes);
                 }
               });
  std::memset(target + static_cast<size_t>(num_filled) * row_bytes, 0,
              static_cast<size_t>(num_rows - num_filled) * row_bytes);
}

}  // namespace

int64_t sort_chunks_workspace_bytes(const SortChunksProblem& problem) {
  return 2 * problem.split_sizes.size(0) * int64_t{sizeof(int64_t)};
}

void sort_chunks(const SortChunksPlan& plan, const SortChunksProblem& problem, Workspace workspace,
                 Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  const int64_t num_filled = write_map(problem, static_cast<int64_t*>(workspace.data));
  move_rows(problem, problem.input, problem.output, problem.input.size(1), num_filled, stream);
  if (!problem.probs.defined()) return;
  move_rows(problem, problem.probs, problem.permuted_probs, 1, num_filled, stream);
}

}  // namespace gg::cpu
