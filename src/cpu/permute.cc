// permute on the CPU: row map (row_map.cc), then rows and what travels with them.
// Start at permute() at the end.
#include <cstring>

#include "base/math.h"
#include "cpu/dispatch.h"
#include "cpu/door.h"
#include "cpu/parallel.h"
#include "cpu/row_map.h"

namespace gg::cpu {
namespace {

void clear_rows(const TensorView& matrix, int64_t first, int64_t end) {
  const int64_t row_bytes = matrix.size(1) * size_of(matrix.dtype);
  first = base::max(first, 0);
  end = base::min(end, matrix.size(0));
  if (first >= end || row_bytes == 0) return;
  std::memset(static_cast<char*>(matrix.data) + first * row_bytes, 0,
              static_cast<size_t>((end - first) * row_bytes));
}

// The groups' pads, and rows from the last group's end on.
void clear_empty_rows(const PermuteProblem& problem, const TensorView& output,
                      int64_t first_empty_row) {
  clear_rows(output, first_empty_row, output.size(0));
  if (problem.align_size == 1) return;
  const int32_t* counts = static_cast<const int32_t*>(problem.tokens_per_expert.data);
  const int32_t* ends = static_cast<const int32_t*>(problem.offsets.data);
  for (int64_t e = 0; e < problem.num_experts; ++e) {
    const int64_t begin = e > 0 ? ends[e - 1] : 0;
    clear_rows(output, begin + counts[e], ends[e]);
  }
}

// Where the last group of a given map ends.
int64_t last_end(const PermuteProblem& problem) {
  return static_cast<const int32_t*>(problem.offsets.data)[problem.num_experts - 1];
}

// Copies each token's row of `input` to its slots' rows of `output`.
void move_rows(const PermuteProblem& problem, const TensorView& input, const TensorView& output,
               Stream stream) {
  const int64_t num_tokens = problem.indices.size(0);
  const int64_t topk = problem.indices.size(1);
  const int64_t element_bytes = size_of(input.dtype);
  const int64_t row_bytes = input.size(1) * element_bytes;
  const int64_t input_stride = input.stride(0) * element_bytes;
  const char* from = static_cast<const char*>(input.data);
  const int32_t* map = static_cast<const int32_t*>(problem.row_id_map.data);
  char* to = static_cast<char*>(output.data);
  if (row_bytes == 0) return;
  parallel_for(stream, num_tokens, rows_per_piece(row_bytes * topk),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   for (int64_t k = 0; k < topk; ++k) {
                     const int64_t row = map[k * num_tokens + t];
                     if (row < 0 || row >= output.size(0)) continue;
                     std::memcpy(to + row * row_bytes, from + t * input_stride,
                                 static_cast<size_t>(row_bytes));
                   }
                 }
               });
}

void move_probs(const PermuteProblem& problem) {
  const int64_t num_tokens = problem.indices.size(0);
  const int64_t topk = problem.indices.size(1);
  const int64_t bytes = size_of(problem.probs.dtype);
  const int32_t* map = static_cast<const int32_t*>(problem.row_id_map.data);
  const char* from = static_cast<const char*>(problem.probs.data);
  char* to = static_cast<char*>(problem.permuted_probs.data);
  if (problem.output.size(0) == 0) return;
  std::memset(to, 0, static_cast<size_t>(problem.output.size(0) * bytes));
  for (int64_t slot = 0; slot < num_tokens * topk; ++slot) {
    const int64_t row = map[slot % topk * num_tokens + slot / topk];
    if (row < 0 || row >= problem.output.size(0)) continue;
    std::memcpy(to + row * bytes, from + slot * bytes, static_cast<size_t>(bytes));
  }
}

}  // namespace

int64_t permute_workspace_bytes(const PermuteProblem& problem) {
  return row_map_workspace_bytes(problem);
}

void permute(const PermutePlan& plan, const PermuteProblem& problem, Workspace workspace,
             Stream stream) {
  const int64_t first_empty_row =
      problem.map_is_given ? last_end(problem) : write_row_map(plan, problem, workspace);
  if (plan.path == Path::kReference) stream = serial_stream();
  move_rows(problem, problem.input, problem.output, stream);
  clear_empty_rows(problem, problem.output, first_empty_row);
  if (problem.probs.defined()) move_probs(problem);
  if (problem.scales.defined()) {
    move_rows(problem, problem.scales, problem.permuted_scales, stream);
    clear_empty_rows(problem, problem.permuted_scales, first_empty_row);
  }
}

void permute_probs_bwd(const PermuteProbsBwdProblem& problem) {
  const int64_t topk = problem.row_id_map.size(0);
  const int64_t num_tokens = problem.row_id_map.size(1);
  const int64_t num_rows = problem.permuted_probs_grad.size(0);
  for (int64_t slot = 0; slot < num_tokens * topk; ++slot) {
    const int64_t row = load_integer(problem.row_id_map, slot % topk * num_tokens + slot / topk);
    const bool kept = row >= 0 && row < num_rows;
    store_float(problem.probs_grad, slot, kept ? load_float(problem.permuted_probs_grad, row) : 0);
  }
}

}  // namespace gg::cpu
