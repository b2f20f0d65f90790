// Grouped GEMM. Two operators cover forward, dgrad and wgrad; layouts are
// strides, so no operand is ever transposed in memory.
//
//   gg::GmmProblem problem{.tokens = ..., .weights = ..., .groups = ..., .out = ...};
//   gg::GmmPlan plan = gg::plan_gmm(problem, gg::Target::cuda(0));
//   std::puts(gg::to_string(plan).c_str());
//   gg::run(plan, problem, gg::Workspace{memory, plan.workspace_bytes}, stream);
//
// Letters: E experts (groups), T tokens, N output features, K reduction.
#pragma once

#include <string_view>

#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"

namespace gg {

// M-grouped: out[t] = weights[e] * tokens[t] for the rows t of group e.
// Forward takes weights [E,N,K]; dgrad is the same call on transposed(weights)
// with the output's gradient as tokens. Rows past the last group become zeros.
// fp32 accumulation (fp64 for fp64).
struct GmmProblem {
  TensorView tokens{};      // [T, K]
  TensorView weights{};     // [E, N, K], the tokens' dtype
  GroupSizes groups{};      // E groups of rows
  TensorView out{};         // [T, N], the tokens' dtype or fp32
  bool allow_tf32 = false;  // fp32 operands may be rounded to tf32's 11 bits for tensor cores
};

// K-grouped: out[e] = sum over the rows t of group e of dy[t] outer x[t].
// Empty groups give zeros, or leave out[e] as it is when accumulating.
struct GmmWgradProblem {
  TensorView dy{};          // [T, N]
  TensorView tokens{};      // [T, K], dy's dtype
  GroupSizes groups{};      // E groups of rows; rows past the last are ignored
  TensorView out{};         // [E, N, K], dy's dtype or fp32
  bool accumulate = false;  // out += instead of out =
  bool allow_tf32 = false;  // as above
};

// How a path runs a problem: one row of its closed menu.
struct GmmPolicy {
  int tile_m = 0;      // rows of one output tile, at most
  int tile_n = 0;      // columns of one output tile
  int tile_k = 0;      // reduction step
  int small_rows = 0;  // groups of at most so many rows run beside larger ones; 0: as they come
  bool equal_tiles = false;  // a group's row tiles all multiply the same length
  int stages = 0;  // reduction steps in shared memory at once; 0: as many as the path always has

  bool operator==(const GmmPolicy&) const = default;
};

struct GmmPlan {
  Path path = Path::kAuto;
  bool k_grouped = false;
  GmmPolicy policy;
  int64_t num_blocks = 0;       // CUDA: an upper bound that holds for any group sizes
  int64_t workspace_bytes = 0;  // host sizes on their way to the device, counters
  std::string_view because{};   // why the device's best path was not taken, a text that lives on

  bool operator==(const GmmPlan&) const = default;
};

// Throw Error for anything wrong with the problem.
GmmPlan plan_gmm(const GmmProblem& problem, const Target& target);
GmmPlan plan_gmm_wgrad(const GmmWgradProblem& problem, const Target& target);
void run(const GmmPlan& plan, const GmmProblem& problem, Workspace workspace, Stream stream = {});
void run(const GmmPlan& plan, const GmmWgradProblem& problem, Workspace workspace,
         Stream stream = {});
std::string to_string(const GmmPlan& plan);

}  // namespace gg
