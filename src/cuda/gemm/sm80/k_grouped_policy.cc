#include "base/math.h"
#include "cuda/gemm/groups.h"
#include "cuda/gemm/sm80/copies.h"
#include "cuda/gemm/sm80/door.h"
#include "cuda/gemm/sm80/policy.h"

namespace gg::cuda::sm80 {
namespace {

// At most 2^46: what is larger has been refused before.
int64_t tiles_per_group(const GmmWgradProblem& problem, int tile_columns) {
  const WgradRoles roles = roles_of(problem);
  return base::ceil_div(problem.out.size(roles.row_dim), kTileRows) *
         base::ceil_div(problem.out.size(roles.column_dim), tile_columns);
}

// Where groups are small, a tile's stores are long beside its few slices: the other block
// multiplies meanwhile. (H200, 2026-11-30, bf16, TFLOP/s cold / steady, rows of a group: 256, Pair
// 284 / 273, Wide 272 / 273; 512, 373 / 348 and 366 / 354; 2048, 438 / 420 and 438 / 438.)
constexpr int64_t kFewRows = 384;

Work work_of(const GmmWgradProblem& problem) {
  const auto num_tiles = [&](int columns) {
    const bool is_empty = problem.out.num_elements() == 0;
    return is_empty ? 0 : problem.out.size(0) * tiles_per_group(problem, columns);
  };
  return {.num_columns = problem.out.size(roles_of(problem).column_dim),
          .wide_tiles = num_tiles(Wide::kTileColumns),
          .small_tiles = num_tiles(Pair::kTileColumns),
          .prefers_pairs = problem.dy.size(0) < kFewRows * problem.out.size(0)};
}

}  // namespace

std::string_view refusal(const GmmWgradProblem& problem, const DeviceLimits& limits) {
  const TensorView& dy = problem.dy;
  const TensorView& tokens = problem.tokens;
  const TensorView& out = problem.out;
  if (!is_built()) return "this build has no kernels for architecture 8.0 or newer";
  if (!has_shape(limits)) {
    return "the device grants a block too little shared memory";
  }
  if (dy.dtype == DType::kFloat32 && !problem.allow_tf32) {
    return "the operands are float32 and may not be rounded to tf32";
  }
  if (out.num_elements() == 0) return {};
  if (dy.size(0) == 0) return "there are no rows";
  if (!is_aligned(dy, kCopyBytes)) return "dy's address is not a multiple of 16 bytes";
  if (!is_aligned(tokens, kCopyBytes)) return "a's address is not a multiple of 16 bytes";
  if (!has_unit_stride(dy, 1)) return "dy's rows are not contiguous";
  if (!has_unit_stride(tokens, 1)) return "a's rows are not contiguous";
  if (!has_good_pitch(dy, 0)) return "the distance of dy's rows is not a multiple of 16 bytes";
  if (!has_good_pitch(tokens, 0)) return "the distance of a's rows is not a multiple of 16 bytes";
  if (!has_whole_rows(dy, 1, kCopyBytes)) return "a row of dy is not a multiple of 16 bytes";
  if (!has_whole_rows(tokens, 1, kCopyBytes)) return "a row of a is not a multiple of 16 bytes";
  if (!has_unit_stride(out, 2) && !has_unit_stride(out, 1)) {
    return "out has no contiguous dimension";
  }
  if (dy.size(0) > kMaxExtent || out.size(1) > kMaxExtent || out.size(2) > kMaxExtent) {
    return "a dimension is larger than 2^30";
  }
  if (out.size(0) > kMaxExtent / tiles_per_group(problem, Pair::kTileColumns)) {
    return "there are more than 2^30 tiles";
  }
  return {};
}

void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits) {
  const Work work = work_of(problem);
  const Shape shape = shape_for(limits, work);
  plan.policy = {.tile_m = kTileRows,
                 .tile_n = shape.tile_columns,
                 .tile_k = kSliceBytes / static_cast<int>(size_of(problem.dy.dtype)),
                 .stages = shape.stages};
  plan.num_blocks = num_blocks_of(limits, work, shape);
  plan.workspace_bytes = kClaimsBytes + groups_workspace_bytes(problem.groups);
}

}  // namespace gg::cuda::sm80
