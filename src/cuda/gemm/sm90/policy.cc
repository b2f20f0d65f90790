#include "cuda/gemm/sm90/policy.h"

#include <limits>

#include "base/math.h"
#include "cuda/gemm/groups.h"
#include "cuda/gemm/sm90/copy_engine.h"
#include "cuda/gemm/sm90/door.h"

namespace gg::cuda::sm90 {
namespace {

constexpr int64_t kManyGroups = 1024;  // more than a block should look at before its first tile
constexpr int64_t kMaxGroups = int64_t{1} << 22;  // experts share a word with a tile's length

// Weights [E, N, K] with stride 1 along the major dimension.
bool can_load_weights(const TensorView& weights, WeightMajor major) {
  return are_good_matrices(weights, major == WeightMajor::kK ? 2 : 1);
}

int tile_k_of(DType operands) {
  return operands == DType::kFloat32 ? Tf32Policy::kTileK : GeneralPolicy::kTileK;
}

// Where all groups have the same size.
template <class Policy>
int64_t likely_num_tiles(const GmmProblem& problem) {
  const int64_t num_groups =
      base::max(1, base::min(problem.groups.num_groups, problem.out.size(0)));
  const int64_t rows = base::ceil_div(problem.out.size(0), num_groups);
  return num_groups * base::ceil_div(rows, Policy::kTileTokens) *
         base::ceil_div(problem.out.size(1), Policy::kTileFeatures);
}

template <class Policy>
void plan_with(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  plan.policy.tile_m = Policy::kTileTokens;
  plan.policy.tile_n = Policy::kTileFeatures;
  const bool may_halve = problem.tokens.size(0) > Policy::kLeastHalfSteps * Policy::kTokenStep &&
                         halves_last_wave(problem.groups.num_groups);
  plan_blocks(plan, max_num_tiles<Policy>(problem) * (may_halve ? 2 : 1),
              Policy::kBlocksPerSm * base::max(1, limits.num_sms), problem.groups);
}

}  // namespace

std::string_view refusal(const GmmProblem& problem, const DeviceLimits& limits) {
  const TensorView& tokens = problem.tokens;
  const TensorView& weights = problem.weights;
  const TensorView& out = problem.out;
  if (!is_built()) return "this build has no kernels for architecture 90a";
  if (limits.shared_bytes_per_block < GeneralPolicy::kSharedBytes) {
    return "the device grants a block too little shared memory";
  }
  const bool is_float = tokens.dtype == DType::kFloat32;
  if (is_float && !problem.allow_tf32) {
    return "the operands are float32, and it is not allowed to round them to tf32";
  }
  if (!is_float && tokens.dtype != DType::kBFloat16 && tokens.dtype != DType::kFloat16) {
    return "the operands are neither bfloat16 nor float16";
  }
  if (out.num_elements() == 0) return {};
  if (weights.size(0) == 0) return "there are no groups";
  if (tokens.size(1) == 0) return "K is 0";
  if (!is_aligned(tokens, kCopyAlignment)) return "a's address is not a multiple of 16 bytes";
  if (!is_aligned(weights, kCopyAlignment)) return "b's address is not a multiple of 16 bytes";
  if (!has_unit_stride(tokens, 1)) return "a's rows are not contiguous";
  if (!has_good_pitch(tokens, 0)) return "the distance of a's rows is not a multiple of 16 bytes";
  if (!can_load_weights(weights, WeightMajor::kK) && !can_load_weights(weights, WeightMajor::kN)) {
    return "b has no contiguous dimension whose rows lie a multiple of 16 bytes apart";
  }
  if (!has_unit_stride(out, 1)) return "out's rows are not contiguous";
  if (tokens.size(0) > kMaxExtent || tokens.size(1) > kMaxExtent || out.size(1) > kMaxExtent) {
    return "a dimension is larger than 2^30";
  }
  if (weights.size(0) > kMaxGroups) return "there are more than 2^22 groups";
  const int64_t max_tiles = max_num_tiles<NarrowPolicy>(problem);
  if (max_tiles > std::numeric_limits<int32_t>::max() / 2) return "there are more than 2^30 tiles";
  return {};
}

Variant variant_of(const GmmProblem& problem) {
  Variant variant{.in = problem.tokens.dtype, .out = problem.out.dtype};
  if (!can_load_weights(problem.weights, WeightMajor::kK)) variant.major = WeightMajor::kN;
  const bool can_copy = is_aligned(problem.out, kCopyAlignment) && has_good_pitch(problem.out, 0);
  if (!can_copy) variant.store = StoreBy::kThreads;
  return variant;
}

TileShape tile_shape_for(const GmmProblem& problem, const DeviceLimits& limits) {
  constexpr int64_t kFewRows = 64;  // a group, on average
  const int64_t num_rows = problem.out.size(0);
  const int64_t num_groups = problem.groups.num_groups;
  if (problem.tokens.dtype == DType::kFloat32) return TileShape::kGeneral;
  if (variant_of(problem).store != StoreBy::kCopyEngine) return TileShape::kGeneral;
  // Where others are to have multiprocessors: twice as many blocks would spread over twice as many.
  if (limits.is_shared) return TileShape::kGeneral;
  if (num_rows > kFewRows * num_groups && max_num_tiles<GeneralPolicy>(problem) > limits.num_sms) {
    return TileShape::kGeneral;
  }
  return likely_num_tiles<NarrowPolicy>(problem) > limits.num_sms ? TileShape::kNarrow
                                                                  : TileShape::kDeep;
}

bool halves_last_wave(int64_t num_groups) { return num_groups <= kManyGroups; }

int small_rows_for(int64_t num_rows, int64_t num_groups) {
  constexpr int kSmallRows = 144;
  constexpr int64_t kManyRows = 1024;  // a group, on average
  constexpr int64_t kFewGroups = 8;
  if (num_groups < kFewGroups || num_groups > kManyGroups) return 0;
  return num_rows <= kManyRows * num_groups ? kSmallRows : 0;
}

bool needs_equal_tiles(int64_t num_k) { return num_k > 16384; }

void plan_blocks(GmmPlan& plan, int64_t max_tiles, int64_t max_blocks, const GroupSizes& groups) {
  plan.num_blocks = base::clamp(max_tiles, 1, max_blocks);
  const bool claims = max_tiles > plan.num_blocks;
  if (!claims) plan.policy.small_rows = 0;
  plan.workspace_bytes = (claims ? kClaimsBytes : 0) + groups_workspace_bytes(groups);
}

void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  plan.policy.tile_k = tile_k_of(problem.tokens.dtype);
  plan.policy.equal_tiles = needs_equal_tiles(problem.tokens.size(1));
  switch (tile_shape_for(problem, limits)) {
    case TileShape::kNarrow: return plan_with<NarrowPolicy>(plan, problem, limits);
    case TileShape::kDeep:
      plan.policy.stages = DeepPolicy::kStages;
      return plan_with<DeepPolicy>(plan, problem, limits);
    case TileShape::kGeneral:
      plan.policy.small_rows = small_rows_for(problem.tokens.size(0), problem.groups.num_groups);
      return plan_with<GeneralPolicy>(plan, problem, limits);
  }
}

}  // namespace gg::cuda::sm90
