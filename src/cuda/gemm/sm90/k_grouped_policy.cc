#include "cuda/gemm/sm90/k_grouped_policy.h"

#include "base/math.h"
#include "cuda/gemm/sm90/copy_engine.h"
#include "cuda/gemm/sm90/door.h"
#include "cuda/gemm/sm90/policy.h"

namespace gg::cuda::sm90 {
namespace {

int64_t tile_columns(const GmmWgradProblem& problem) {
  const bool is_wide = !problem.accumulate || adds_in_l2(problem);
  return is_wide ? KGroupedWide::kTileColumns : KGroupedNarrow::kTileColumns;
}

// At most 2^45: what is larger has been refused before.
int64_t tiles_per_group(const GmmWgradProblem& problem) {
  const WgradRoles roles = copied_roles_of(problem);
  return base::ceil_div(problem.out.size(roles.row_dim), KGroupedWide::kTileRows) *
         base::ceil_div(problem.out.size(roles.column_dim), tile_columns(problem));
}

}  // namespace

std::string_view refusal(const GmmWgradProblem& problem, const DeviceLimits& limits) {
  const TensorView& dy = problem.dy;
  const TensorView& tokens = problem.tokens;
  const TensorView& out = problem.out;
  if (!is_built()) return "this build has no kernels for architecture 90a";
  if (limits.shared_bytes_per_block < KGroupedWide::kSharedBytes) {
    return "the device grants a block too little shared memory";
  }
  const bool is_float = dy.dtype == DType::kFloat32;
  if (is_float && !problem.allow_tf32) {
    return "the operands are float32, and it is not allowed to round them to tf32";
  }
  if (!is_float && dy.dtype != DType::kBFloat16 && dy.dtype != DType::kFloat16) {
    return "the operands are neither bfloat16 nor float16";
  }
  if (out.num_elements() == 0) return {};
  if (dy.size(0) == 0) return "there are no rows";
  if (!is_aligned(dy, kCopyAlignment)) return "dy's address is not a multiple of 16 bytes";
  if (!is_aligned(tokens, kCopyAlignment)) return "a's address is not a multiple of 16 bytes";
  if (!is_aligned(out, kCopyAlignment)) return "out's address is not a multiple of 16 bytes";
  if (!has_unit_stride(dy, 1)) return "dy's rows are not contiguous";
  if (!has_unit_stride(tokens, 1)) return "a's rows are not contiguous";
  if (!has_good_pitch(dy, 0)) return "the distance of dy's rows is not a multiple of 16 bytes";
  if (!has_good_pitch(tokens, 0)) return "the distance of a's rows is not a multiple of 16 bytes";
  if (!are_good_matrices(out, 2) && !are_good_matrices(out, 1)) {
    return "out has no contiguous dimension whose rows lie a multiple of 16 bytes apart";
  }
  if (dy.size(0) > kMaxExtent || out.size(1) > kMaxExtent || out.size(2) > kMaxExtent) {
    return "a dimension is larger than 2^30";
  }
  if (out.size(0) > kMaxExtent / tiles_per_group(problem)) {
    return "there are more than 2^30 tiles";
  }
  return {};
}

bool adds_in_l2(const GmmWgradProblem& problem) {
  constexpr int64_t kManyRows = 1024;  // a group, on average
  return problem.accumulate && problem.out.dtype == DType::kFloat32 &&
         (problem.dy.dtype == DType::kFloat32 ||
          problem.dy.size(0) >= kManyRows * problem.groups.num_groups);
}

WgradRoles copied_roles_of(const GmmWgradProblem& problem) {
  return roles_of(problem, are_good_matrices(problem.out, 2) ? 2 : 1);
}

void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits) {
  const int64_t num_tiles =
      problem.out.num_elements() == 0 ? 0 : problem.out.size(0) * tiles_per_group(problem);
  plan.policy = {
      .tile_m = KGroupedWide::kTileRows,
      .tile_n = static_cast<int>(tile_columns(problem)),
      .tile_k = problem.dy.dtype == DType::kFloat32 ? KGroupedTf32::kTileK : KGroupedWide::kTileK,
      .small_rows = small_rows_for(problem.dy.size(0), problem.groups.num_groups)};
  plan_blocks(plan, num_tiles, base::max(1, limits.num_sms), problem.groups);
}

}  // namespace gg::cuda::sm90
