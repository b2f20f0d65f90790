#include "cuda/gemm/sm70/policy.h"

#include <limits>

#include "base/math.h"
#include "cuda/common/architectures.h"
#include "cuda/gemm/groups.h"
#include "cuda/gemm/layouts.h"
#include "cuda/gemm/sm70/door.h"
#include "cuda/gemm/sm70/launch.h"

namespace gg::cuda::sm70 {
namespace {

constexpr int64_t kChunk = 8;  // elements in 16 bytes
constexpr int64_t kChunkBytes = 16;
constexpr int64_t kMaxExtent = int64_t{1} << 30;
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();

// Rows end with a whole chunk, so that no load of one mixes elements with what lies beside them.
bool can_load_weights(const TensorView& weights, WeightMajor major) {
  const int inner = major == WeightMajor::kK ? 2 : 1;
  return has_unit_stride(weights, inner) && has_whole_rows(weights, inner, kChunkBytes) &&
         has_aligned_steps(weights, 3 - inner, kChunkBytes) &&
         has_aligned_steps(weights, 0, kChunkBytes);
}

// What the operands' kind and the device say, before any shape.
std::string_view refusal_of_kind(Path path, DType dtype, const DeviceLimits& limits) {
  if (dtype != DType::kFloat16) return "the operands are not float16";
  const char* built = path == Path::kSm75 ? sm75_architectures() : sm70_architectures();
  if (!is_code_for(built, limits.compute_capability)) {
    return "this build has no float16 kernels for a device of this compute capability";
  }
  if (limits.shared_bytes_per_block < Small::kSharedBytes + kSharedBytesForGroups) {
    return "the device grants a block too little shared memory";
  }
  return {};
}

// Each group may end in a partial tile, and so may the rows past the last one.
int64_t max_row_tiles(int64_t num_rows, int64_t num_groups, int64_t tile_rows) {
  return num_rows / tile_rows + base::min(num_groups, num_rows) + 1;
}

int64_t max_blocks(const GmmProblem& problem, const GmmPolicy& policy) {
  return max_row_tiles(problem.out.size(0), problem.groups.num_groups, policy.tile_m) *
         base::ceil_div(problem.out.size(1), policy.tile_n);
}

// At most 2^55: a dimension above 2^30 has been refused before.
int64_t tiles_per_group(int64_t out_rows, int64_t out_columns, int64_t rows, int64_t columns) {
  return base::ceil_div(out_rows, rows) * base::ceil_div(out_columns, columns);
}

template <typename Policy>
constexpr GmmPolicy policy_of() {
  return {.tile_m = Policy::kTileRows, .tile_n = Policy::kTileColumns, .tile_k = kTileK};
}

template <typename Policy>
bool fits(const DeviceLimits& limits) {
  return Policy::kSharedBytes + kSharedBytesForGroups <= limits.shared_bytes_per_block;
}

}  // namespace

std::string_view refusal(Path path, const GmmProblem& problem, const DeviceLimits& limits) {
  const TensorView& tokens = problem.tokens;
  const TensorView& weights = problem.weights;
  const TensorView& out = problem.out;
  const std::string_view kind = refusal_of_kind(path, tokens.dtype, limits);
  if (!kind.empty()) return kind;
  if (out.num_elements() == 0) return {};
  if (!is_aligned(tokens, kChunkBytes)) return "a's address is not a multiple of 16 bytes";
  if (!is_aligned(weights, kChunkBytes)) return "b's address is not a multiple of 16 bytes";
  if (!has_unit_stride(tokens, 1)) return "a's rows are not contiguous";
  if (tokens.size(1) % kChunk != 0) return "K is not a multiple of 8";
  if (!has_aligned_steps(tokens, 0, kChunkBytes)) {
    return "the distance of a's rows is not a multiple of 16 bytes";
  }
  if (!can_load_weights(weights, WeightMajor::kK) && !can_load_weights(weights, WeightMajor::kN)) {
    return "b has no contiguous dimension of a multiple of 16 bytes whose rows lie so apart";
  }
  if (!has_unit_stride(out, 1)) return "out's rows are not contiguous";
  if (tokens.size(0) > kMaxExtent || tokens.size(1) > kMaxExtent || out.size(1) > kMaxExtent) {
    return "a dimension is larger than 2^30";
  }
  const GmmPolicy policy =
      choose_m_grouped(tokens.size(0), problem.groups.num_groups, out.size(1), limits);
  if (max_blocks(problem, policy) > kMaxBlocks) return "there are more than 2^31 tiles";
  return {};
}

std::string_view refusal(Path path, const GmmWgradProblem& problem, const DeviceLimits& limits) {
  const TensorView& dy = problem.dy;
  const TensorView& tokens = problem.tokens;
  const TensorView& out = problem.out;
  const std::string_view kind = refusal_of_kind(path, dy.dtype, limits);
  if (!kind.empty()) return kind;
  if (out.num_elements() == 0) return {};
  if (!is_aligned(dy, kChunkBytes)) return "dy's address is not a multiple of 16 bytes";
  if (!is_aligned(tokens, kChunkBytes)) return "a's address is not a multiple of 16 bytes";
  if (!has_unit_stride(dy, 1)) return "dy's rows are not contiguous";
  if (!has_unit_stride(tokens, 1)) return "a's rows are not contiguous";
  if (dy.size(1) % kChunk != 0) return "N is not a multiple of 8";
  if (tokens.size(1) % kChunk != 0) return "K is not a multiple of 8";
  if (!has_aligned_steps(dy, 0, kChunkBytes)) {
    return "the distance of dy's rows is not a multiple of 16 bytes";
  }
  if (!has_aligned_steps(tokens, 0, kChunkBytes)) {
    return "the distance of a's rows is not a multiple of 16 bytes";
  }
  if (!has_unit_stride(out, 1) && !has_unit_stride(out, 2)) {
    return "out has no contiguous dimension";
  }
  if (dy.size(0) > kMaxExtent || out.size(1) > kMaxExtent || out.size(2) > kMaxExtent) {
    return "a dimension is larger than 2^30";
  }
  if (out.size(0) > kMaxBlocks / tiles_per_group(out.size(1), out.size(2), Small::kTileRows,
                                                 Small::kTileColumns)) {
    return "there are more than 2^31 tiles";
  }
  return {};
}

// A mean group of 4 tiles wastes an eighth of the multiplications on the last one's end
// where sizes are random, a mean group of 1 tile a third: a larger tile must gain that.
GmmPolicy choose_m_grouped(int64_t num_rows, int64_t num_groups, int64_t num_n,
                           const DeviceLimits& limits) {
  const auto suits = [&]<typename Policy>(Policy, int64_t least_rows) {
    const int64_t num_tiles =
        base::ceil_div(num_rows, Policy::kTileRows) * base::ceil_div(num_n, Policy::kTileColumns);
    return fits<Policy>(limits) && num_tiles >= limits.num_sms &&
           num_rows / base::max(1, num_groups) >= least_rows;
  };
  if (suits(Wide{}, 4 * Wide::kTileRows)) return policy_of<Wide>();
  if (suits(General{}, General::kTileRows / 2)) return policy_of<General>();
  return policy_of<Small>();
}

GmmPolicy choose_k_grouped(int64_t num_groups, int64_t out_rows, int64_t out_columns,
                           const DeviceLimits& limits) {
  const auto suits = [&]<typename Policy>(Policy) {
    const int64_t num_tiles =
        tiles_per_group(out_rows, out_columns, Policy::kTileRows, Policy::kTileColumns);
    const int64_t computed = num_tiles * Policy::kTileRows * Policy::kTileColumns;
    const int64_t useful = out_rows * out_columns;
    return fits<Policy>(limits) && num_tiles >= base::ceil_div(limits.num_sms, num_groups) &&
           useful >= computed - computed / 4;
  };
  if (suits(Wide{})) return policy_of<Wide>();
  if (suits(General{})) return policy_of<General>();
  return policy_of<Small>();
}

WeightMajor major_of(const GmmProblem& problem) {
  return can_load_weights(problem.weights, WeightMajor::kK) ? WeightMajor::kK : WeightMajor::kN;
}

void plan_gmm(GmmPlan& plan, const GmmProblem& problem, const DeviceLimits& limits) {
  plan.policy = choose_m_grouped(problem.tokens.size(0), problem.groups.num_groups,
                                 problem.out.size(1), limits);
  plan.num_blocks = max_blocks(problem, plan.policy);
  plan.workspace_bytes = groups_workspace_bytes(problem.groups);
}

void plan_gmm_wgrad(GmmPlan& plan, const GmmWgradProblem& problem, const DeviceLimits& limits) {
  const WgradRoles roles = roles_of(problem);
  const int64_t num_groups = base::max(1, problem.out.size(0));
  const int64_t out_rows = problem.out.size(roles.row_dim);
  const int64_t out_columns = problem.out.size(roles.column_dim);
  plan.policy = choose_k_grouped(num_groups, out_rows, out_columns, limits);
  plan.num_blocks = problem.out.size(0) *
                    tiles_per_group(out_rows, out_columns, plan.policy.tile_m, plan.policy.tile_n);
  plan.workspace_bytes = groups_workspace_bytes(problem.groups);
}

}  // namespace gg::cuda::sm70
