// unpermute and its backward pass on the CPU: loops over tokens, which are
// independent of each other, so that the parallel version is the same loop.
#include <algorithm>
#include <array>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/door.h"
#include "cpu/parallel.h"

namespace gg::cpu {
namespace {

constexpr int64_t kColumnsAtOnce = 256;  // partial sums that stay in the L1 cache

// Row of token t's k-th slot, or -1 where it is dropped or out of range.
struct RowMap {
  const TensorView& map;  // [topK, T]
  int64_t num_rows;

  int64_t num_tokens() const { return map.size(1); }
  int64_t topk() const { return map.size(0); }
  int64_t row(int64_t t, int64_t k) const {
    const int64_t entry = load_integer(map, k * num_tokens() + t);
    return entry >= 0 && entry < num_rows ? entry : -1;
  }
};

template <typename T>
void merge_token(const UnpermuteProblem& problem, const RowMap& map, int64_t t) {
  using Acc = Accumulator<T>;
  const int64_t h = problem.output.size(1);
  const T* input = static_cast<const T*>(problem.input.data);
  T* output = static_cast<T*>(problem.output.data) + t * h;
  for (int64_t first = 0; first < h; first += kColumnsAtOnce) {
    const int64_t count = std::min(kColumnsAtOnce, h - first);
    std::array<Acc, kColumnsAtOnce> sums{};
    for (int64_t k = 0; k < map.topk(); ++k) {
      const int64_t row = map.row(t, k);
      if (row < 0) continue;
      const T* source = input + row * problem.input.stride(0) + first;
      const bool weighted = problem.probs.defined();
      const Acc prob =
          weighted ? static_cast<Acc>(load_float(problem.probs, t * map.topk() + k)) : Acc{1};
      for (int64_t c = 0; c < count; ++c) {
        const Acc value = convert<Acc>(source[c]);
        sums[static_cast<size_t>(c)] += weighted ? prob * value : value;
      }
    }
    if (problem.residual.defined()) {
      const T* residual =
          static_cast<const T*>(problem.residual.data) + t * problem.residual.stride(0) + first;
      for (int64_t c = 0; c < count; ++c) {
        sums[static_cast<size_t>(c)] += convert<Acc>(residual[c]);
      }
    }
    for (int64_t c = 0; c < count; ++c) {
      output[first + c] = convert<T>(sums[static_cast<size_t>(c)]);
    }
  }
}

template <typename T>
void token_backward(const UnpermuteBwdProblem& problem, const RowMap& map, int64_t t,
                    uint8_t* is_written) {
  using Acc = Accumulator<T>;
  const int64_t h = problem.output_grad.size(1);
  const T* grad =
      static_cast<const T*>(problem.output_grad.data) + t * problem.output_grad.stride(0);
  for (int64_t k = 0; k < map.topk(); ++k) {
    const int64_t slot = t * map.topk() + k;
    const int64_t row = map.row(t, k);
    if (problem.probs_grad.defined()) {
      Acc dot = 0;
      if (row >= 0) {
        const T* input = static_cast<const T*>(problem.input.data) + row * problem.input.stride(0);
        for (int64_t c = 0; c < h; ++c) dot += convert<Acc>(grad[c]) * convert<Acc>(input[c]);
      }
      store_float(problem.probs_grad, slot, dot);
    }
    if (problem.input_grad.defined() && row >= 0) {
      const bool weighted = problem.probs.defined();
      const Acc prob = weighted ? static_cast<Acc>(load_float(problem.probs, slot)) : Acc{1};
      T* input_grad = static_cast<T*>(problem.input_grad.data) + row * h;
      for (int64_t c = 0; c < h; ++c) {
        input_grad[c] = weighted ? convert<T>(prob * convert<Acc>(grad[c])) : grad[c];
      }
      is_written[row] = 1;
    }
  }
}

}  // namespace

void unpermute(const UnpermutePlan& plan, const UnpermuteProblem& problem, Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  const RowMap map{problem.row_id_map, problem.input.size(0)};
  const int64_t token_bytes = problem.output.size(1) * size_of(problem.input.dtype) * map.topk();
  with_float_type(problem.input.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(stream, map.num_tokens(), rows_per_piece(token_bytes),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t t = begin; t < end; ++t) merge_token<T>(problem, map, t);
                 });
  });
}

int64_t unpermute_bwd_workspace_bytes(const UnpermuteBwdProblem& problem) {
  return problem.input_grad.defined() ? problem.input_grad.size(0) : 0;  // one flag a row
}

void unpermute_bwd(const UnpermutePlan& plan, const UnpermuteBwdProblem& problem,
                   Workspace workspace, Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  const bool has_grad = problem.input_grad.defined();
  const int64_t num_rows = has_grad ? problem.input_grad.size(0) : problem.input.size(0);
  const RowMap map{problem.row_id_map, num_rows};
  const int64_t row_bytes = problem.output_grad.size(1) * size_of(problem.output_grad.dtype);
  uint8_t* is_written = static_cast<uint8_t*>(workspace.data);
  if (has_grad) std::fill(is_written, is_written + num_rows, uint8_t{0});
  with_float_type(problem.output_grad.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(stream, map.num_tokens(), rows_per_piece(row_bytes * map.topk()),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t t = begin; t < end; ++t) {
                     token_backward<T>(problem, map, t, is_written);
                   }
                 });
  });
  if (!has_grad) return;
  char* grad = static_cast<char*>(problem.input_grad.data);
  for (int64_t row = 0; row < num_rows; ++row) {
    if (is_written[row] == 0) {
      std::memset(grad + row * row_bytes, 0, static_cast<size_t>(row_bytes));
    }
  }
}

}  // namespace gg::cpu
