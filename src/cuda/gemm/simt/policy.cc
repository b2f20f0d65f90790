#include "cuda/gemm/simt/policy.h"

#include <limits>

#include "base/math.h"
#include "cuda/gemm/groups.h"
#include "cuda/gemm/layouts.h"
#include "cuda/gemm/simt/door.h"

namespace gg::cuda::simt {
namespace {

// Whether all rows along `inner` can be read in whole vectors of four elements.
bool has_vectors(const TensorView& tensor, int inner) {
  const int64_t bytes = 4 * size_of(tensor.dtype);
  for (int d = 0; d < tensor.rank; ++d) {
    if (d != inner && !has_aligned_steps(tensor, d, bytes)) return false;
  }
  return is_aligned(tensor, bytes) && has_whole_rows(tensor, inner, bytes);
}

template <class Tile>
GmmPolicy policy() {
  return {.tile_m = Tile::kRows, .tile_n = Tile::kColumns, .tile_k = Tile::kSlice};
}

template <class Tile>
int64_t num_tiles(const GmmProblem& problem) {
  // Each group may end in a partial tile, and so may the rows past the last one.
  const int64_t rows = problem.out.size(0);
  const int64_t row_tiles = rows / Tile::kRows + base::min(problem.groups.num_groups, rows) + 1;
  return row_tiles * base::ceil_div(problem.out.size(1), Tile::kColumns);
}

template <class Tile>
int64_t num_tiles(const GmmWgradProblem& problem) {
  const WgradRoles roles = roles_of(problem);
  return problem.out.size(0) * base::ceil_div(problem.out.size(roles.row_dim), Tile::kRows) *
         base::ceil_div(problem.out.size(roles.column_dim), Tile::kColumns);
}

template <typename Problem>
void complete(GmmPlan& plan, const Problem& problem, bool is_large) {
  plan.policy = is_large ? policy<LargeTile>() : policy<SmallTile>();
  plan.num_blocks = is_large ? num_tiles<LargeTile>(problem) : num_tiles<SmallTile>(problem);
  plan.workspace_bytes = groups_workspace_bytes(problem.groups);
}

template <typename Problem>
std::string_view common_refusal(const Problem& problem) {
  if (problem.tokens.dtype == DType::kFloat64) return "the operands are float64";
  if (num_tiles<SmallTile>(problem) > std::numeric_limits<int32_t>::max()) {
    return "there are more than 2^31 tiles";
  }
  return {};
}

bool is_large(const GmmPlan& plan) { return plan.policy.tile_m == LargeTile::kRows; }

}  // namespace

std::string_view refusal(const GmmProblem& problem, const DeviceLimits&) {
  if (problem.out.num_elements() == 0) return {};
  const TensorView& weights = problem.weights;
  if (!has_unit_stride(problem.tokens, 1)) return "a's rows are not contiguous";
  if (!has_unit_stride(problem.out, 1)) return "out's rows are not contiguous";
  if (!has_unit_stride(weights, 2) && !has_unit_stride(weights, 1)) {
    return "b has no contiguous dimension";
  }
  return common_refusal(problem);
}

std::string_view refusal(const GmmWgradProblem& problem, const DeviceLimits&) {
  if (problem.out.num_elements() == 0) return {};
  if (!has_unit_stride(problem.dy, 1)) return "dy's rows are not contiguous";
  if (!has_unit_stride(problem.tokens, 1)) return "a's rows are not contiguous";
  if (!has_unit_stride(problem.out, 2) && !has_unit_stride(problem.out, 1)) {
    return "out has no contiguous dimension";
  }
  return common_refusal(problem);
}

// Large tiles where they fill the device, and where groups fill them.
void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  const int64_t groups = base::max(1, problem.groups.num_groups);
  const bool fills_tiles = problem.tokens.size(0) > LargeTile::kRows / 2 * groups;
  complete(plan, problem, fills_tiles && num_tiles<LargeTile>(problem) >= limits.num_sms);
}

void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits) {
  complete(plan, problem, num_tiles<LargeTile>(problem) >= limits.num_sms);
}

Variant variant_of(const GmmProblem& problem, const GmmPlan& plan) {
  const bool along_k = has_unit_stride(problem.weights, 2);
  return {.in = problem.tokens.dtype,
          .weights = along_k ? Inner::kReduction : Inner::kOuter,
          .is_large = is_large(plan),
          .has_vectors =
              has_vectors(problem.tokens, 1) && has_vectors(problem.weights, along_k ? 2 : 1)};
}

Variant variant_of(const GmmWgradProblem& problem, const GmmPlan& plan) {
  return {.in = problem.tokens.dtype,
          .is_large = is_large(plan),
          .has_vectors = has_vectors(problem.dy, 1) && has_vectors(problem.tokens, 1)};
}

}  // namespace gg::cuda::simt
