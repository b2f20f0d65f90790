// route and route_bwd as torch operators.
#include "grouped_gemm/route.h"

#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "torch/ops.h"

namespace gg::torch_binding {
namespace {

// GG_CHECK_ROUTING=1: every call waits for the device and refuses logits that
// hold NaN or +inf. For debugging; a graph cannot be captured meanwhile.
bool checks_logits() {
  const char* value = std::getenv("GG_CHECK_ROUTING");
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

void refuse_invalid(const Tensor& invalid_tokens, int64_t num_tokens) {
  TensorView host = view(nullptr, DType::kInt32, {invalid_tokens.size(0)});
  std::vector<int32_t> counts(static_cast<size_t>(invalid_tokens.size(0)));
  host.data = counts.data();
  Tensor copy = borrow(host);
  torch::stable::copy_(copy, invalid_tokens);
  int64_t sum = 0;
  for (int32_t count : counts) sum += count;
  GG_REQUIRE(sum == 0, "route: logits got NaN or +inf in ", sum, " of ", num_tokens,
             " tokens; needs finite logits, or -inf for an expert that is masked out; look for "
             "what made them (GG_CHECK_ROUTING is set; without it such a token goes to some "
             "valid expert)");
}

int to_int(const char* op, const char* name, int64_t value) {
  GG_REQUIRE(value >= INT32_MIN && value <= INT32_MAX, op, ": ", name, " got ", value,
             "; needs a small number");
  return static_cast<int>(value);
}

TensorView optional_view(const Device& device, const char* op, const char* name,
                         std::optional<Tensor>& tensor) {
  if (!tensor) return {};
  device.require_same(name, *tensor);
  tensor = torch_binding::contiguous(*tensor);
  return to_view(op, name, *tensor);
}

DType wide(DType logits) { return logits == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

}  // namespace

Routed route(Tensor logits, std::optional<Tensor> expert_bias, int64_t topk, bool sigmoid,
             bool pre_softmax, bool normalize_topk, int64_t num_groups, int64_t group_topk,
             int64_t group_score_topk, double scaling_factor, int64_t num_sequences, bool with_sums,
             bool with_row_map, int64_t align_size) {
  constexpr const char* kOp = "route";
  const Device device(kOp, "logits", logits);
  GG_REQUIRE(logits.dim() == 2, kOp, ": logits got ", logits.dim(),
             " dimensions; needs 2, [tokens, experts]");
  logits = torch_binding::contiguous(logits);
  RouteProblem problem{
      .options = {.topk = to_int(kOp, "topk", topk),
                  .score_function = sigmoid ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax,
                  .pre_softmax = pre_softmax,
                  .normalize_topk = normalize_topk,
                  .num_groups = to_int(kOp, "num_groups", num_groups),
                  .group_topk = to_int(kOp, "group_topk", group_topk),
                  .group_score_topk = to_int(kOp, "group_score_topk", group_score_topk),
                  .scaling_factor = scaling_factor},
      .num_sequences = num_sequences,
      .logits = to_view(kOp, "logits", logits)};
  problem.expert_bias = optional_view(device, kOp, "expert_bias", expert_bias);
  const int64_t T = logits.size(0);
  const int64_t E = logits.size(1);
  const DType dtype = wide(problem.logits.dtype);
  const int64_t columns = topk > 0 ? topk : 0;  // bad sizes are the plan's to refuse
  const int64_t rows = num_sequences > 0 ? num_sequences : 0;
  problem.probs = view(nullptr, dtype, {T, columns});
  problem.indices = view(nullptr, DType::kInt32, {T, columns});
  problem.tokens_per_expert = view(nullptr, DType::kInt32, {rows, E});
  if (with_sums) {
    problem.score_sums = view(nullptr, dtype, {rows, E});
    problem.z_sums = view(nullptr, dtype, {rows});
  }
  if (with_row_map) {
    problem.row_id_map = view(nullptr, DType::kInt32, {columns, T});
    problem.offsets = view(nullptr, DType::kInt32, {E});
  }
  problem.align_size = align_size;
  const bool checks = checks_logits();
  if (checks) problem.invalid_tokens = view(nullptr, DType::kInt32, {rows});
  const RoutePlan plan = plan_route(problem, device.target());
  Tensor probs = allocate(logits, problem.probs);
  Tensor indices = allocate(logits, problem.indices);
  Tensor tokens_per_expert = allocate(logits, problem.tokens_per_expert);
  Tensor score_sums =
      with_sums ? allocate(logits, problem.score_sums) : empty_like_device(logits, {0, E}, dtype);
  Tensor z_sums =
      with_sums ? allocate(logits, problem.z_sums) : empty_like_device(logits, {0}, dtype);
  Tensor row_id_map = with_row_map ? allocate(logits, problem.row_id_map)
                                   : empty_like_device(logits, {0, T}, DType::kInt32);
  Tensor offs = with_row_map ? allocate(logits, problem.offsets)
                             : empty_like_device(logits, {0}, DType::kInt32);
  std::optional<Tensor> invalid_tokens;
  if (checks) invalid_tokens = allocate(logits, problem.invalid_tokens);
  run_on(device, logits, plan, problem);
  if (checks) refuse_invalid(*invalid_tokens, T);
  return {probs, indices, tokens_per_expert, score_sums, z_sums, row_id_map, offs};
}

Tensor route_bwd(Tensor logits, Tensor indices, std::optional<Tensor> probs,
                 std::optional<Tensor> probs_grad, std::optional<Tensor> score_sums_grad,
                 std::optional<Tensor> z_sums_grad, int64_t topk, bool sigmoid, bool pre_softmax,
                 bool normalize_topk, double scaling_factor, int64_t num_sequences) {
  constexpr const char* kOp = "route_bwd";
  const Device device(kOp, "logits", logits);
  device.require_same("indices", indices);
  logits = torch_binding::contiguous(logits);
  indices = torch_binding::contiguous(indices);
  RouteBwdProblem problem{
      .options = {.topk = to_int(kOp, "topk", topk),
                  .score_function = sigmoid ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax,
                  .pre_softmax = pre_softmax,
                  .normalize_topk = normalize_topk,
                  .scaling_factor = scaling_factor},
      .num_sequences = num_sequences,
      .logits = to_view(kOp, "logits", logits),
      .indices = to_view(kOp, "indices", indices)};
  problem.probs = optional_view(device, kOp, "probs", probs);
  problem.probs_grad = optional_view(device, kOp, "probs_grad", probs_grad);
  problem.score_sums_grad = optional_view(device, kOp, "score_sums_grad", score_sums_grad);
  problem.z_sums_grad = optional_view(device, kOp, "z_sums_grad", z_sums_grad);
  problem.logits_grad = problem.logits;  // its shape and dtype
  const RoutePlan plan = plan_route_bwd(problem, device.target());
  problem.logits_grad = view(nullptr, problem.logits.dtype, {logits.size(0), logits.size(1)});
  Tensor logits_grad = allocate(logits, problem.logits_grad);
  run_on(device, logits, plan, problem);
  return logits_grad;
}

}  // namespace gg::torch_binding
