// sort_chunks as a torch operator.
#include "grouped_gemm/sort_chunks.h"

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {

std::tuple<Tensor, Tensor, Tensor> sort_chunks(Tensor x, Tensor split_sizes, Tensor sorted_index,
                                               std::optional<Tensor> probs) {
  constexpr const char* kOp = "sort_chunks";
  const Device device(kOp, "input", x);
  device.require_same("split_sizes", split_sizes);
  device.require_same("sorted_index", sorted_index);
  x = with_contiguous_rows(x);
  split_sizes = contiguous(split_sizes);
  sorted_index = contiguous(sorted_index);
  SortChunksProblem problem{
      .input = to_view(kOp, "input", x),
      .split_sizes = to_view(kOp, "split_sizes", split_sizes, kNeedsInteger),
      .sorted_index = to_view(kOp, "sorted_index", sorted_index, kNeedsInteger)};
  const int64_t num_rows = problem.input.rank > 0 ? problem.input.size(0) : 0;
  const int64_t hidden = problem.input.rank == 2 ? problem.input.size(1) : 0;
  problem.output = view(nullptr, problem.input.dtype, {num_rows, hidden});
  problem.row_id_map = view(nullptr, DType::kInt32, {1, num_rows});
  if (probs) {
    device.require_same("probs", *probs);
    probs = contiguous(*probs);
    problem.probs = to_view(kOp, "probs", *probs);
    problem.permuted_probs = view(nullptr, problem.probs.dtype, {num_rows});
  }
  const SortChunksPlan plan = plan_sort_chunks(problem, device.target());
  Tensor output = allocate(x, problem.output);
  Tensor row_id_map = allocate(x, problem.row_id_map);
  Tensor permuted_probs =
      probs ? allocate(x, problem.permuted_probs) : empty_like_device(x, {0}, DType::kFloat32);
  run_on(device, x, plan, problem);
  return {output, row_id_map, permuted_probs};
}

}  // namespace gg::torch_binding
