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
  if (is_float && !can_load_weights(weights, WeightMajor::kK)) {
    return "b is not contiguous along K, and tf32 tensor cores read nothing else here";
  }
  if (!has_unit_stride(out, 1)) return "out's rows are not contiguous";
  if (tokens.size(0) > kMaxExtent || tokens.size(1) > kMaxExtent || out.size(1) > kMaxExtent) {
    return "a dimension is larger than 2^30";
  }
  if (weights.size(0) > kMaxGroups) return "there are more than 2^22 groups";
  const int64_t max_tiles = max_num_tiles(problem);
  if (max_tiles > std::numeric_limits<int32_t>::max() / 2) return "there are more than 2^30 tiles";
  return {};
}

int64_t max_num_tiles(const GmmProblem& problem) {
  const int64_t num_rows = problem.out.size(0);
  return (num_rows / GeneralPolicy::kTileTokens + base::min(problem.groups.num_groups, num_rows)) *
         base::ceil_div(problem.out.size(1), GeneralPolicy::kTileFeatures);
}

Variant variant_of(const GmmProblem& problem) {
  Variant variant{.in = problem.tokens.dtype, .out = problem.out.dtype};
  if (!can_load_weights(problem.weights, WeightMajor::kK)) variant.major = WeightMajor::kN;
  const bool can_copy = is_aligned(problem.out, kCopyAlignment) && has_good_pitch(problem.out, 0);
  if (!can_copy) variant.store = StoreBy::kThreads;
  return variant;
}

int most_parts_for(int64_t num_groups) { return num_groups <= kManyGroups ? 2 : 1; }

int small_rows_for(int64_t num_rows, int64_t num_groups) {
  constexpr int kSmallRows = 144;
  constexpr int64_t kManyRows = 1024;  // a group, on average
  constexpr int64_t kFewGroups = 8;
  if (num_groups < kFewGroups || num_groups > kManyGroups) return 0;
  return num_rows <= kManyRows * num_groups ? kSmallRows : 0;
}

bool needs_equal_tiles(int64_t num_k) { return num_k > 16384; }

void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  plan.policy = {.tile_m = GeneralPolicy::kTileTokens,
                 .tile_n = GeneralPolicy::kTileFeatures,
                 .tile_k = tile_k_of(problem.tokens.dtype),
                 .small_rows = small_rows_for(problem.tokens.size(0), problem.groups.num_groups),
                 .equal_tiles = needs_equal_tiles(problem.tokens.size(1))};
  const bool may_part =
      problem.tokens.size(0) > GeneralPolicy::kLeastPartSteps * GeneralPolicy::kTokenStep;
  const int64_t parts = may_part ? most_parts_for(problem.groups.num_groups) : 1;
  plan.num_blocks = base::clamp(max_num_tiles(problem) * parts, 1, base::max(1, limits.num_sms));
  plan.workspace_bytes = kClaimsBytes + groups_workspace_bytes(problem.groups);
}

}  // namespace gg::cuda::sm90
