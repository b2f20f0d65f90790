// What an operator would do with a shape on a device, present or not: the text
// of its plan, for `python -m grouped_gemm info` and the benchmarks' tables.
// One C function that ctypes can call; read by python/grouped_gemm/bench/paths.py.
//
// Plans are pure, so addresses may be null here: no memory is touched.
#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "grouped_gemm/gmm.h"
#include "grouped_gemm/permute.h"
#include "grouped_gemm/route.h"
#include "grouped_gemm/sinkhorn.h"
#include "grouped_gemm/unpermute.h"
#include "torch/convert.h"

// The question, mirrored field by field in paths.py.
struct GroupedGemmQuestion {
  int64_t struct_bytes;   // sizeof this struct as the caller knows it
  const char* op;         // a name of kOperators below
  const char* dtype;      // of the operands: "bfloat16"
  const char* out_dtype;  // of the result; null: the operands'
  int64_t tokens;         // T
  int64_t k;              // K; the hidden size of a permutation
  int64_t n;              // N
  int64_t experts;        // E
  int64_t topk;
  int64_t trans_b;     // weights lie as [E, N, K], else as [E, K, N]
  int64_t accumulate;  // wgrad: += instead of =
  int64_t allow_tf32;  // of float32 operands
  int64_t has_probs;
  int64_t device_index;        // >= 0: a CUDA device of this machine, its own limits
  int64_t compute_capability;  // else: 90 for 9.0, with the limits below; 0 is the CPU
  int64_t num_sms;
  int64_t shared_bytes_per_block;
};

namespace gg::torch_binding {
namespace {

using Question = GroupedGemmQuestion;

DType dtype_named(const Question& q, const char* argument, const char* name) {
  for (int i = 0; i <= static_cast<int>(DType::kInt64); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (std::strcmp(to_string(dtype), name) == 0) return dtype;
  }
  GG_REQUIRE(false, q.op, ": ", argument, " got '", name, "'; needs a dtype's name, as float32");
  return DType::kFloat32;
}

DType operand_dtype(const Question& q) { return dtype_named(q, "dtype", q.dtype); }

DType result_dtype(const Question& q) {
  return q.out_dtype == nullptr ? operand_dtype(q) : dtype_named(q, "out_dtype", q.out_dtype);
}

Target target_of(const Question& q) {
  if (q.device_index >= 0) return Target::cuda(static_cast<int>(q.device_index));
  if (q.compute_capability == 0) return Target::cpu();
  DeviceLimits limits;
  limits.compute_capability = static_cast<int>(q.compute_capability);
  limits.num_sms = static_cast<int>(q.num_sms);
  limits.shared_bytes_per_block = q.shared_bytes_per_block;
  Target target = Target::cuda(limits);
  target.max_sms = max_sms();
  return target;
}

// Sizes where the operands are, as a training step has them. On the CPU they are read: none.
GroupSizes groups_of(const Question& q, const Target& target, std::vector<int64_t>& storage) {
  if (target.kind == Target::Kind::kCuda) {
    return GroupSizes::on_device_sizes(nullptr, DType::kInt64, q.experts);
  }
  storage.assign(static_cast<size_t>(q.experts), 0);
  return GroupSizes::on_host_sizes(storage.data(), DType::kInt64, q.experts);
}

// A matrix for each expert, seen as [E, N, K] whichever way it lies.
TensorView matrices(const Question& q, DType dtype) {
  return q.trans_b ? view(nullptr, dtype, {q.experts, q.n, q.k})
                   : transposed(view(nullptr, dtype, {q.experts, q.k, q.n}));
}

std::string explain_gmm(const Question& q) {
  const Target target = target_of(q);
  std::vector<int64_t> storage;
  const GmmProblem problem{.tokens = view(nullptr, operand_dtype(q), {q.tokens, q.k}),
                           .weights = matrices(q, operand_dtype(q)),
                           .groups = groups_of(q, target, storage),
                           .out = view(nullptr, result_dtype(q), {q.tokens, q.n}),
                           .allow_tf32 = q.allow_tf32 != 0};
  return to_string(plan_gmm(problem, target));
}

std::string explain_gmm_dgrad(const Question& q) {
  const Target target = target_of(q);
  std::vector<int64_t> storage;
  const GmmProblem problem{.tokens = view(nullptr, operand_dtype(q), {q.tokens, q.n}),
                           .weights = transposed(matrices(q, operand_dtype(q))),
                           .groups = groups_of(q, target, storage),
                           .out = view(nullptr, result_dtype(q), {q.tokens, q.k}),
                           .allow_tf32 = q.allow_tf32 != 0};
  return to_string(plan_gmm(problem, target));
}

std::string explain_gmm_wgrad(const Question& q) {
  const Target target = target_of(q);
  std::vector<int64_t> storage;
  const GmmWgradProblem problem{.dy = view(nullptr, operand_dtype(q), {q.tokens, q.n}),
                                .tokens = view(nullptr, operand_dtype(q), {q.tokens, q.k}),
                                .groups = groups_of(q, target, storage),
                                .out = matrices(q, result_dtype(q)),
                                .accumulate = q.accumulate != 0,
                                .allow_tf32 = q.allow_tf32 != 0};
  return to_string(plan_gmm_wgrad(problem, target));
}

std::string explain_permute(const Question& q) {
  const DType dtype = operand_dtype(q);
  const TensorView counts = view(nullptr, DType::kInt32, {q.experts});
  const PermuteProblem problem{
      .input = view(nullptr, dtype, {q.tokens, q.k}),
      .indices = view(nullptr, DType::kInt64, {q.tokens, q.topk}),
      .output = view(nullptr, dtype, {q.tokens * q.topk, q.k}),
      .row_id_map = view(nullptr, DType::kInt32, {q.topk, q.tokens}),
      .num_experts = q.experts,
      .tokens_per_expert = counts,
      .offsets = counts,
  };
  return to_string(plan_permute(problem, target_of(q)));
}

std::string explain_unpermute(const Question& q) {
  const DType dtype = operand_dtype(q);
  UnpermuteProblem problem{
      .input = view(nullptr, dtype, {q.tokens * q.topk, q.k}),
      .row_id_map = view(nullptr, DType::kInt32, {q.topk, q.tokens}),
      .output = view(nullptr, dtype, {q.tokens, q.k}),
  };
  if (q.has_probs) problem.probs = view(nullptr, DType::kFloat32, {q.tokens, q.topk});
  return to_string(plan_unpermute(problem, target_of(q)));
}

std::string explain_unpermute_bwd(const Question& q) {
  const DType dtype = operand_dtype(q);
  UnpermuteBwdProblem problem{
      .output_grad = view(nullptr, dtype, {q.tokens, q.k}),
      .row_id_map = view(nullptr, DType::kInt32, {q.topk, q.tokens}),
      .input_grad = view(nullptr, dtype, {q.tokens * q.topk, q.k}),
  };
  if (q.has_probs) {
    problem.input = view(nullptr, dtype, {q.tokens * q.topk, q.k});
    problem.probs = view(nullptr, DType::kFloat32, {q.tokens, q.topk});
    problem.probs_grad = problem.probs;
  }
  return to_string(plan_unpermute_bwd(problem, target_of(q)));
}

std::string explain_sinkhorn(const Question& q) {
  const TensorView cost = view(nullptr, operand_dtype(q), {q.tokens, q.experts});
  return to_string(plan_sinkhorn(SinkhornProblem{.cost = cost, .output = cost}, target_of(q)));
}

RouteProblem route_problem(const Question& q) {
  const TensorView logits = view(nullptr, operand_dtype(q), {q.tokens, q.experts});
  RouteProblem problem;
  problem.logits = logits;
  problem.options.topk = static_cast<int>(q.topk);
  problem.probs = view(nullptr, DType::kFloat32, {q.tokens, q.topk});
  problem.indices = view(nullptr, DType::kInt32, {q.tokens, q.topk});
  problem.tokens_per_expert = view(nullptr, DType::kInt32, {1, q.experts});
  return problem;
}

std::string explain_route(const Question& q) {
  return to_string(plan_route(route_problem(q), target_of(q)));
}

std::string explain_route_map(const Question& q) {
  RouteProblem problem = route_problem(q);
  problem.row_id_map = view(nullptr, DType::kInt32, {q.topk, q.tokens});
  problem.offsets = view(nullptr, DType::kInt32, {q.experts});
  return to_string(plan_route(problem, target_of(q)));
}

std::string explain_route_bwd(const Question& q) {
  const TensorView logits = view(nullptr, operand_dtype(q), {q.tokens, q.experts});
  RouteBwdProblem problem;
  problem.logits = logits;
  problem.logits_grad = logits;
  problem.options.topk = static_cast<int>(q.topk);
  problem.indices = view(nullptr, DType::kInt32, {q.tokens, q.topk});
  problem.probs = view(nullptr, DType::kFloat32, {q.tokens, q.topk});
  problem.probs_grad = problem.probs;
  return to_string(plan_route_bwd(problem, target_of(q)));
}

struct Operator {
  const char* name;
  std::string (*explain)(const Question&);
};

// A new operator gets its row here and its name in paths.py.
constexpr Operator kOperators[] = {
    {"gmm", explain_gmm},
    {"gmm_dgrad", explain_gmm_dgrad},
    {"gmm_wgrad", explain_gmm_wgrad},
    {"permute", explain_permute},
    {"unpermute", explain_unpermute},
    {"unpermute_bwd", explain_unpermute_bwd},
    {"sinkhorn", explain_sinkhorn},
    {"route", explain_route},
    {"route_map", explain_route_map},
    {"route_bwd", explain_route_bwd},
};

std::string explain(const Question& q) {
  GG_REQUIRE(q.struct_bytes == sizeof(Question), "explain: got a question of ", q.struct_bytes,
             " bytes; needs ", sizeof(Question),
             ", so package and library are of different versions; reinstall grouped_gemm");
  for (const int64_t extent : {q.tokens, q.k, q.n, q.experts, q.topk}) {
    GG_REQUIRE(extent >= 0, q.op, ": got a size of ", extent, "; needs 0 or more");
  }
  for (const Operator& row : kOperators) {
    if (std::strcmp(row.name, q.op) == 0) return row.explain(q);
  }
  GG_REQUIRE(false, "explain: op got '", q.op, "'; needs an operator's name, as gmm");
  return {};
}

// As much as fits, always ended.
void write(std::string_view source, char* text, int64_t capacity) {
  if (capacity <= 0) return;
  const size_t length = std::min(source.size(), static_cast<size_t>(capacity) - 1);
  std::copy_n(source.data(), length, text);
  text[length] = '\0';
}

}  // namespace
}  // namespace gg::torch_binding

// 0: `text` is the plan. 1: it says why the operator takes no such problem there.
extern "C" __attribute__((visibility("default"))) int grouped_gemm_explain(
    const GroupedGemmQuestion* question, char* text, int64_t capacity) {
  using namespace gg::torch_binding;
  try {
    write(explain(*question), text, capacity);
    return 0;
  } catch (const std::exception& error) {
    write(error.what(), text, capacity);
    return 1;
  }
}
