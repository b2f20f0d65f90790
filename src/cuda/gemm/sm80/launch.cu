// Grouped GEMM by mma.sync: addresses, the counter of claims, the launch.
// Kernel: m_grouped.cuh. Choice: policy.cc.
#include "cuda/gemm/sm80/launch.h"

#include "cuda/common/launch.h"
#include "cuda/common/number.cuh"
#include "cuda/gemm/sm80/copies.h"
#include "cuda/gemm/sm80/door.h"

namespace gg::cuda::sm80 {
namespace {

using Launcher = void (*)(const MGroupedArgs&, const Launch&);

struct Row {
  Variant variant;
  Launcher launcher;
};

template <typename In, WeightMajor kMajor, typename Out>
constexpr Row row(DType in, DType out) {
  return {{in, out, kMajor}, launch_m_grouped<In, kMajor, Out>};
}

constexpr DType kBf16 = DType::kBFloat16;
constexpr DType kFp16 = DType::kFloat16;
constexpr DType kFp32 = DType::kFloat32;
constexpr WeightMajor kK = WeightMajor::kK;
constexpr WeightMajor kN = WeightMajor::kN;

// Every kernel there is: one for each file of inst/.
constexpr Row kRows[] = {
    row<__nv_bfloat16, kK, __nv_bfloat16>(kBf16, kBf16),
    row<__nv_bfloat16, kN, __nv_bfloat16>(kBf16, kBf16),
    row<__nv_bfloat16, kK, float>(kBf16, kFp32),
    row<__nv_bfloat16, kN, float>(kBf16, kFp32),
    row<__half, kK, __half>(kFp16, kFp16),
    row<__half, kN, __half>(kFp16, kFp16),
    row<__half, kK, float>(kFp16, kFp32),
    row<__half, kN, float>(kFp16, kFp32),
    row<float, kK, float>(kFp32, kFp32),
    row<float, kN, float>(kFp32, kFp32),
};

Launcher launcher_of(const Variant& variant) {
  for (const Row& row : kRows) {
    if (row.variant == variant) return row.launcher;
  }
  throw Error("gmm: no kernel of path sm80 for this variant");
}

}  // namespace

bool is_built() { return true; }

void gmm(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream) {
  const TensorView& tokens = problem.tokens;
  const TensorView& weights = problem.weights;
  const Variant variant = variant_of(problem);
  const int64_t element = size_of(tokens.dtype);
  unsigned* claims = static_cast<unsigned*>(workspace.data);
  check("gmm", "clear its counter", cudaMemsetAsync(claims, 0, kClaimsBytes, to_cuda(stream)));
  const Workspace for_groups{static_cast<char*>(workspace.data) + kClaimsBytes,
                             workspace.bytes - kClaimsBytes};
  const int weight_rows = variant.major == WeightMajor::kK ? 1 : 2;
  const MGroupedArgs args{
      .tokens = {static_cast<const char*>(tokens.data), 0,
                 static_cast<uint32_t>(step_of(tokens, 0) * element)},
      .weights = {static_cast<const char*>(weights.data), step_of(weights, 0) * element,
                  static_cast<uint32_t>(step_of(weights, weight_rows) * element)},
      .out = problem.out.data,
      .out_pitch = step_of(problem.out, 0),
      .groups = to_device("gmm", problem.groups, for_groups, to_cuda(stream)),
      .claims = claims,
      .num_rows = static_cast<int>(tokens.size(0)),
      .num_n = static_cast<int>(weights.size(1)),
      .num_k = static_cast<int>(tokens.size(1)),
      .whole_chunks = is_aligned(problem.out, kCopyBytes) && has_good_pitch(problem.out, 0)};
  launcher_of(variant)(args,
                       {plan.policy, static_cast<unsigned>(plan.num_blocks), to_cuda(stream)});
}

}  // namespace gg::cuda::sm80
