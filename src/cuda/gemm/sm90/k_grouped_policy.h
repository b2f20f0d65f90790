// The K-grouped kernel's menu of tile shapes, and the pure host functions that say
// whether a problem can run here and which operand plays which role. The problem's
// refusal and plan are declared in door.h. No CUDA in this header.
#pragma once

#include "cuda/gemm/layouts.h"

namespace gg::cuda::sm90 {

// 128 rows of out x at most 256 columns; the general policy. H200, 2026-11-22,
// gemm_k prototype, bf16, four shapes: level with ping-pong 128 x 192 (better at 512
// rows a group, worse at N = 2880), ping-pong 128 x 128 10 % slower; dynamic claims
// +5 % on random sizes; cluster of 2 +3 %, left out for its complexity.
// Missing: a policy for fp32 outputs of few rows a group, bound by shared memory.
struct KGroupedWide {
  static constexpr int kConsumers = 2;  // warpgroups, of 64 rows each
  static constexpr int kTileRows = 64 * kConsumers;
  static constexpr int kTileColumns = 256;    // at most; out's columns are cut into equal tiles
  static constexpr int kColumnStep = 64;      // granularity of a tile's width
  static constexpr int kTileK = 64;           // token rows in a stage
  static constexpr int kBoxFeatures = 64;     // 128 bytes: a row of the copy engine's swizzle
  static constexpr int kStages = 4;           // k-blocks in shared memory
  static constexpr int kClaimLead = 4;        // k-blocks before its end that a tile claims the next
  static constexpr int kSlabs = 2;            // of 2 KB, for each of eight warps
  static constexpr int kKeptColumns = 128;    // of a finished tile of fp32, in registers
  static constexpr bool kHasCourier = false;  // k_grouped_add_epilogue.cuh

  // Shared memory: the stages, the slabs, tiles and barriers.
  static constexpr int64_t kSharedBytes =
      kStages * (kTileRows + kTileColumns) * kTileK * 2 + kSlabs * 16 * 1024 + 1024;
};

// For output that is added to what is there: a smaller tile leaves registers and shared
// memory that hide the reading of old values. H200, 2026-11-22: level with 128 columns, 4
// stages and as many slabs, but up to 0.1 of the floor better for 16-bit output.
struct KGroupedNarrow : KGroupedWide {
  static constexpr int kTileColumns = 192;
  static constexpr int kStages = 3;
  static constexpr int kSlabs = 6;
  static constexpr bool kHasCourier = true;
};

// fp32 operands, rounded to tf32: half as many elements in the same bytes, and room for the right
// operand turned twice. Two stages are enough: one is empty again before it is multiplied.
struct KGroupedTf32 : KGroupedWide {
  static constexpr int kTileK = 32;
  static constexpr int kBoxFeatures = 32;
  static constexpr int kStages = 2;
  static constexpr int kClaimLead = 2;
  static constexpr int kKeptColumns = 64;  // the left operand's words take registers
  static constexpr int64_t kSharedBytes =
      (kStages * (kTileRows + kTileColumns) + 2 * kTileColumns) * kTileK * 4 + kSlabs * 16 * 1024 +
      1024;
};

// fp32 output that is added to, where products decide and not its bytes: wide tiles, whose
// sums the copy engine adds in L2. Of the floor, H200, 2026-11-22: at 2048 rows a group
// 0.91-0.94 against 0.77-0.82 with narrow tiles, at 1024 0.73-0.92 against 0.63-0.77, at
// 512 0.57-0.62 against 0.67-0.78, at 256 0.62 against 0.81-0.92.
// Of fp32 operands all sums are added there.
bool adds_in_l2(const GmmWgradProblem& problem);

// The roles in which the copy engine can reach out; for a problem that is not refused.
WgradRoles copied_roles_of(const GmmWgradProblem& problem);

}  // namespace gg::cuda::sm90
