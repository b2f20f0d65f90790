#include "cuda/gemm/sm80/policy.h"

#include <limits>

#include "base/math.h"
#include "cuda/gemm/groups.h"
#include "cuda/gemm/sm80/copies.h"
#include "cuda/gemm/sm80/door.h"

namespace gg::cuda::sm80 {
namespace {

constexpr int64_t kMaxTiles = std::numeric_limits<int32_t>::max() / 2;

// Weights [E, N, K] with stride 1 along the major dimension.
bool can_load_weights(const TensorView& weights, WeightMajor major) {
  return are_good_matrices(weights, major == WeightMajor::kK ? 2 : 1);
}

template <class Policy>
constexpr int64_t kBlockBytes = Policy::kStages * stage_bytes(Policy::kTileColumns) + kOtherBytes;

template <class Policy>
bool fits(const DeviceLimits& limits) {
  return kBlockBytes<Policy> <= limits.shared_bytes_per_block;
}

template <class Policy>
Shape shape_of(int blocks_per_sm = 1) {
  return {Policy::kTileColumns, Policy::kStages, blocks_per_sm};
}

// Whether two of a policy's blocks would share a multiprocessor. The system takes 1 KB a block,
// which from 8.0 on is also what a multiprocessor has more than a block may get.
template <class Policy>
bool two_fit(const DeviceLimits& limits) {
  constexpr int64_t kSystemBytes = 1024;
  return 2 * (kBlockBytes<Policy> + kSystemBytes) <= limits.shared_bytes_per_block + kSystemBytes;
}

// Products that a wide tile makes past the last column, and a small one does not: 4 % or more.
bool wastes_wide_tiles(const Work& work) {
  return 25 * (2 * work.wide_tiles - work.small_tiles) >= work.small_tiles;
}

Work work_of(const GmmProblem& problem) {
  return {.num_columns = problem.out.size(1),
          .wide_tiles = max_num_tiles(problem, Wide::kTileColumns),
          .small_tiles = max_num_tiles(problem, Pair::kTileColumns)};
}

}  // namespace

Shape shape_for(const DeviceLimits& limits, const Work& work) {
  // Where other kernels are to keep multiprocessors for themselves, blocks must be too large to
  // share one: twice as many would spread over twice as many.
  const bool has_room_for_pairs = !limits.is_shared && two_fit<Pair>(limits);
  const bool may_be_wide = fits<Wide>(limits) && !(limits.is_shared && two_fit<Wide>(limits));

  const bool fills_pairs = work.small_tiles > limits.num_sms && has_room_for_pairs;
  const bool fills_wide =
      work.num_columns > Pair::kTileColumns && work.wide_tiles >= limits.num_sms && may_be_wide;
  const bool prefers_pairs = work.prefers_pairs || wastes_wide_tiles(work);
  if (fills_pairs && (prefers_pairs || !fills_wide)) return shape_of<Pair>(Pair::kBlocksPerSm);
  if (fills_wide) return shape_of<Wide>();
  if (fits<Deep>(limits)) return shape_of<Deep>();
  return has_shape(limits) ? shape_of<Pair>() : Shape{};
}

bool has_shape(const DeviceLimits& limits) { return fits<Pair>(limits); }

int64_t num_blocks_of(const DeviceLimits& limits, const Work& work, const Shape& shape) {
  const bool is_wide = shape.tile_columns == Wide::kTileColumns;
  return base::clamp(is_wide ? work.wide_tiles : work.small_tiles, 1,
                     shape.blocks_per_sm * base::max(1, limits.num_sms));
}

std::string_view refusal(const GmmProblem& problem, const DeviceLimits& limits) {
  const TensorView& tokens = problem.tokens;
  const TensorView& weights = problem.weights;
  const TensorView& out = problem.out;
  if (!is_built()) return "this build has no kernels for architecture 8.0 or newer";
  if (!has_shape(limits)) {
    return "the device grants a block too little shared memory";
  }
  if (tokens.dtype == DType::kFloat32 && !problem.allow_tf32) {
    return "the operands are float32 and may not be rounded to tf32";
  }
  if (out.num_elements() == 0) return {};
  if (weights.size(0) == 0) return "there are no groups";
  if (tokens.size(1) == 0) return "K is 0";
  if (!is_aligned(tokens, kCopyBytes)) return "a's address is not a multiple of 16 bytes";
  if (!is_aligned(weights, kCopyBytes)) return "b's address is not a multiple of 16 bytes";
  if (!has_unit_stride(tokens, 1)) return "a's rows are not contiguous";
  if (!has_good_pitch(tokens, 0)) return "the distance of a's rows is not a multiple of 16 bytes";
  if (!has_whole_rows(tokens, 1, kCopyBytes)) return "a row of a is not a multiple of 16 bytes";
  if (!can_load_weights(weights, WeightMajor::kK) && !can_load_weights(weights, WeightMajor::kN)) {
    return "b has no contiguous dimension whose rows lie and are a multiple of 16 bytes long";
  }
  if (!has_unit_stride(out, 1)) return "out's rows are not contiguous";
  if (tokens.size(0) > kMaxExtent || tokens.size(1) > kMaxExtent || out.size(1) > kMaxExtent) {
    return "a dimension is larger than 2^30";
  }
  if (weights.size(0) > kMaxExtent) return "there are more than 2^30 groups";
  if (max_num_tiles(problem, Pair::kTileColumns) > kMaxTiles) {
    return "there are more than 2^30 tiles";
  }
  return {};
}

int64_t max_num_tiles(const GmmProblem& problem, int tile_columns) {
  const int64_t num_rows = problem.out.size(0);
  return (num_rows / kTileRows + base::min(problem.groups.num_groups, num_rows)) *
         base::ceil_div(problem.out.size(1), tile_columns);
}

Variant variant_of(const GmmProblem& problem) {
  const bool k_major = can_load_weights(problem.weights, WeightMajor::kK);
  return {problem.tokens.dtype, problem.out.dtype, k_major ? WeightMajor::kK : WeightMajor::kN};
}

void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  const Work work = work_of(problem);
  const Shape shape = shape_for(limits, work);
  plan.policy = {.tile_m = kTileRows,
                 .tile_n = shape.tile_columns,
                 .tile_k = kSliceBytes / static_cast<int>(size_of(problem.tokens.dtype)),
                 .stages = shape.stages};
  plan.num_blocks = num_blocks_of(limits, work, shape);
  plan.workspace_bytes = kClaimsBytes + groups_workspace_bytes(problem.groups);
}

}  // namespace gg::cuda::sm80
