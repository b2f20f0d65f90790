// Grouped GEMM on Hopper: descriptors, the counters of claims, the launch.
// Kernel: m_grouped.cuh. Choice: policy.cc.
#include "cuda/gemm/sm90/launch.h"

#include "cuda/common/launch.h"
#include "cuda/common/number.cuh"
#include "cuda/gemm/sm90/copy_engine.h"
#include "cuda/gemm/sm90/door.h"
#include "cuda/gemm/sm90/scratch.h"
#include "cuda/gemm/sm90/tensor_maps.h"

namespace gg::cuda::sm90 {
namespace {

using Launch = void (*)(const MGroupedArgs&, unsigned, cudaStream_t);

struct Row {
  Variant variant;
  Launch launch;
};

template <typename In, WeightMajor kMajor, typename Out, StoreBy kStore,
          TileShape kTile = TileShape::kGeneral>
constexpr Row row(DType in, DType out) {
  return {{in, out, kMajor, kStore, kTile}, launch_m_grouped<In, kMajor, Out, kStore, kTile>};
}

constexpr DType kBf16 = DType::kBFloat16;
constexpr DType kFp16 = DType::kFloat16;
constexpr DType kFp32 = DType::kFloat32;
constexpr StoreBy kCopy = StoreBy::kCopyEngine;
constexpr StoreBy kThreads = StoreBy::kThreads;
constexpr WeightMajor kK = WeightMajor::kK;
constexpr WeightMajor kN = WeightMajor::kN;
constexpr TileShape kNarrow = TileShape::kNarrow;
constexpr TileShape kDeep = TileShape::kDeep;

// Every kernel there is: one for each file of inst/.
constexpr Row kRows[] = {
    row<__nv_bfloat16, kK, __nv_bfloat16, kCopy>(kBf16, kBf16),
    row<__nv_bfloat16, kN, __nv_bfloat16, kCopy>(kBf16, kBf16),
    row<__nv_bfloat16, kK, __nv_bfloat16, kThreads>(kBf16, kBf16),
    row<__nv_bfloat16, kN, __nv_bfloat16, kThreads>(kBf16, kBf16),
    row<__nv_bfloat16, kK, float, kCopy>(kBf16, kFp32),
    row<__nv_bfloat16, kN, float, kCopy>(kBf16, kFp32),
    row<__nv_bfloat16, kK, float, kThreads>(kBf16, kFp32),
    row<__nv_bfloat16, kN, float, kThreads>(kBf16, kFp32),
    row<__half, kK, __half, kCopy>(kFp16, kFp16),
    row<__half, kN, __half, kCopy>(kFp16, kFp16),
    row<__half, kK, __half, kThreads>(kFp16, kFp16),
    row<__half, kN, __half, kThreads>(kFp16, kFp16),
    row<__half, kK, float, kCopy>(kFp16, kFp32),
    row<__half, kN, float, kCopy>(kFp16, kFp32),
    row<__half, kK, float, kThreads>(kFp16, kFp32),
    row<__half, kN, float, kThreads>(kFp16, kFp32),
    row<float, kK, float, kCopy>(kFp32, kFp32),  // tf32
    row<float, kN, float, kCopy>(kFp32, kFp32),
    row<float, kK, float, kThreads>(kFp32, kFp32),
    row<float, kN, float, kThreads>(kFp32, kFp32),
    row<__nv_bfloat16, kK, __nv_bfloat16, kCopy, kNarrow>(kBf16, kBf16),
    row<__nv_bfloat16, kN, __nv_bfloat16, kCopy, kNarrow>(kBf16, kBf16),
    row<__nv_bfloat16, kK, float, kCopy, kNarrow>(kBf16, kFp32),
    row<__nv_bfloat16, kN, float, kCopy, kNarrow>(kBf16, kFp32),
    row<__half, kK, __half, kCopy, kNarrow>(kFp16, kFp16),
    row<__half, kN, __half, kCopy, kNarrow>(kFp16, kFp16),
    row<__half, kK, float, kCopy, kNarrow>(kFp16, kFp32),
    row<__half, kN, float, kCopy, kNarrow>(kFp16, kFp32),
    row<__nv_bfloat16, kK, __nv_bfloat16, kCopy, kDeep>(kBf16, kBf16),
    row<__nv_bfloat16, kN, __nv_bfloat16, kCopy, kDeep>(kBf16, kBf16),
    row<__nv_bfloat16, kK, float, kCopy, kDeep>(kBf16, kFp32),
    row<__nv_bfloat16, kN, float, kCopy, kDeep>(kBf16, kFp32),
    row<__half, kK, __half, kCopy, kDeep>(kFp16, kFp16),
    row<__half, kN, __half, kCopy, kDeep>(kFp16, kFp16),
    row<__half, kK, float, kCopy, kDeep>(kFp16, kFp32),
    row<__half, kN, float, kCopy, kDeep>(kFp16, kFp32),
};

TileShape tile_shape_of(const GmmPolicy& policy) {
  if (policy.tile_n == GeneralPolicy::kTileFeatures) return TileShape::kGeneral;
  return policy.stages == DeepPolicy::kStages ? TileShape::kDeep : TileShape::kNarrow;
}

Launch launcher_of(const Variant& variant) {
  for (const Row& row : kRows) {
    if (row.variant == variant) return row.launch;
  }
  throw Error("gmm: no kernel of path sm90 for this variant");
}

}  // namespace

bool is_built() { return true; }

void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  Variant variant = variant_of(problem);
  variant.tile = tile_shape_of(plan.policy);
  MGroupedArgs args{};
  args.out = problem.out.data;
  args.out_pitch = pitch_of(problem.out, 0, problem.out.size(1));
  const Scratch scratch = prepare("gmm", plan, problem.groups, workspace, stream);
  args.groups = scratch.groups;
  args.classes = {.claims = scratch.claims,
                  .small_rows = plan.policy.small_rows > 0 ? plan.policy.small_rows : -1,
                  .halves = halves_last_wave(problem.groups.num_groups)};
  args.equal_tiles = plan.policy.equal_tiles;
  args.num_rows = static_cast<int>(problem.tokens.size(0));
  args.num_n = static_cast<int>(problem.weights.size(1));
  args.num_k = static_cast<int>(problem.tokens.size(1));
  encode_tensor_maps(args, problem, variant);
  launcher_of(variant)(args, static_cast<unsigned>(plan.num_blocks), to_cuda(stream));
}

}  // namespace gg::cuda::sm90
