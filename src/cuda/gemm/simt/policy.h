// How fast, never what: the two tiles, and the pure host functions that say whether a
// problem can run here and which kernel it takes. No CUDA in this header.
#pragma once

#include <string_view>

#include "grouped_gemm/gmm.h"

namespace gg::cuda::simt {

// A thread owns kThreadRows x kThreadColumns outputs, 16 x 16 threads a tile. An element
// that a thread reads from shared memory is used kThreadColumns or kThreadRows times: from
// 8 x 16 on, multiply-adds take longer than the reads, at 128 of each a cycle.
template <int kRowsOfThread, int kColumnsOfThread>
struct Tile {
  static constexpr int kThreadRows = kRowsOfThread;
  static constexpr int kThreadColumns = kColumnsOfThread;
  static constexpr int kRows = 16 * kRowsOfThread;
  static constexpr int kColumns = 16 * kColumnsOfThread;
  static constexpr int kSlice = 16;  // reduction steps in shared memory, twice
};
using LargeTile = Tile<8, 16>;  // 128 x 256
using SmallTile = Tile<4, 8>;   // 64 x 128: small groups, few tiles

// Which dimension of an operand [outer, reduction] has stride 1.
enum class Inner { kReduction, kOuter };

// What picks the kernel.
struct Variant {
  DType in = DType::kFloat32;
  Inner weights = Inner::kReduction;  // M-grouped only
  bool is_large = true;
  bool has_vectors = true;  // loads of four elements

  bool operator==(const Variant&) const = default;
};

// For a problem that is not refused, and its plan.
Variant variant_of(const GmmProblem& problem, const GmmPlan& plan);
Variant variant_of(const GmmWgradProblem& problem, const GmmPlan& plan);

}  // namespace gg::cuda::simt
