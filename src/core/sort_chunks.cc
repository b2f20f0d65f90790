// sort_chunks: validate, choose a path, plan, run.
#include "grouped_gemm/sort_chunks.h"

#include "base/check.h"
#include "core/path.h"
#include "core/validate.h"
#include "cpu/door.h"
#include "cuda/door.h"

namespace gg {
namespace {

constexpr const char* kOp = "sort_chunks";

void validate_chunks(const SortChunksProblem& problem, const Target& target) {
  using namespace core;
  const int64_t num_chunks = problem.split_sizes.rank == 1 ? problem.split_sizes.size(0) : 0;
  for (const auto& [name, tensor] : {std::pair{"split_sizes", problem.split_sizes},
                                     std::pair{"sorted_index", problem.sorted_index}}) {
    require_rank({kOp, name}, tensor, 1, "[chunks]");
    require_shape({kOp, name}, tensor, {num_chunks}, "one for each chunk");
    require_dtype({kOp, name}, tensor, {DType::kInt32, DType::kInt64});
    require_contiguous({kOp, name}, tensor);
    require_int32_count({kOp, name}, num_chunks, "chunks");
  }
  if (target.kind == Target::Kind::kCuda) return;
  const auto on_host = [&](const TensorView& tensor) {
    return GroupSizes::on_host_sizes(tensor.data, tensor.dtype, num_chunks);
  };
  require_groups({kOp, "split_sizes"}, on_host(problem.split_sizes), problem.input.size(0), target);
  for (int64_t i = 0; i < num_chunks; ++i) {
    const int64_t chunk = host_entry(on_host(problem.sorted_index), i);
    GG_REQUIRE(chunk >= 0 && chunk < num_chunks, kOp, ": sorted_index got ", chunk, " at index ", i,
               "; needs chunks from 0 to ", num_chunks - 1);
  }
}

void validate(const SortChunksProblem& problem, const Target& target) {
  using namespace core;
  const TensorView& input = problem.input;
  require_rank({kOp, "input"}, input, 2, "[rows, hidden]");
  require_dtype({kOp, "input"}, input,
                {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat8E4M3,
                 DType::kFloat8E5M2, DType::kFloat64});
  require_contiguous_rows({kOp, "input"}, input);
  require_int32_count({kOp, "input"}, input.size(0), "rows");
  require_shape({kOp, "output"}, problem.output, {input.size(0), input.size(1)}, "input's shape");
  require_dtype({kOp, "output"}, problem.output, {input.dtype});
  require_contiguous({kOp, "output"}, problem.output);
  require_shape({kOp, "row_id_map"}, problem.row_id_map, {1, input.size(0)}, "[1, rows]");
  require_dtype({kOp, "row_id_map"}, problem.row_id_map, {DType::kInt32});
  require_contiguous({kOp, "row_id_map"}, problem.row_id_map);
  validate_chunks(problem, target);
  if (!problem.probs.defined()) return;
  require_shape({kOp, "probs"}, problem.probs, {input.size(0)}, "one for each row");
  require_dtype({kOp, "probs"}, problem.probs,
                {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64});
  require_contiguous({kOp, "probs"}, problem.probs);
  require_shape({kOp, "permuted_probs"}, problem.permuted_probs, {input.size(0)},
                "one for each row");
  require_dtype({kOp, "permuted_probs"}, problem.permuted_probs, {problem.probs.dtype});
  require_contiguous({kOp, "permuted_probs"}, problem.permuted_probs);
}

}  // namespace

SortChunksPlan plan_sort_chunks(const SortChunksProblem& problem, const Target& target) {
  validate(problem, target);
  SortChunksPlan plan;
  plan.path = core::choose_path(kOp, target, core::kPlainMenu);
  if (target.kind == Target::Kind::kCuda) {
    cuda::plan_sort_chunks(plan, problem);
  } else {
    plan.workspace_bytes = cpu::sort_chunks_workspace_bytes(problem);
  }
  return plan;
}

void run(const SortChunksPlan& plan, const SortChunksProblem& problem, Workspace workspace,
         Stream stream) {
  core::require_workspace(kOp, workspace, plan.workspace_bytes);
  if (plan.path == Path::kPortable) {
    cuda::sort_chunks(plan, problem, workspace, stream);
  } else {
    cpu::sort_chunks(plan, problem, workspace, stream);
  }
}

std::string to_string(const SortChunksPlan& plan) {
  return base::concat("sort_chunks ", to_string(plan.path), " vector=", plan.vector_bytes,
                      "B workspace=", plan.workspace_bytes, "B");
}

}  // namespace gg
