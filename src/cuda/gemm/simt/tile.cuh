// One output tile by fused multiply-adds: fetch a slice of both operands to registers while
// the slice before is multiplied out of shared memory, then lay it down there. Used by
// m_grouped.cuh and k_grouped.cuh.
//
// Every sum runs through the reduction from its first step to its last.
#pragma once

#include "base/math.h"
#include "cuda/common/number.cuh"
#include "cuda/gemm/simt/args.h"
#include "cuda/gemm/simt/policy.h"

namespace gg::cuda::simt {

inline constexpr int kThreads = 256;  // 8 warps, 4 x 2 of them a tile, 4 x 8 lanes each

// Slices lie as [reduction][outer]. Four more columns, and the swizzle of slot_of(): threads
// that lay down four steps of the reduction each, 4 x 8 of them a warp, hit all banks, and
// reads of four neighbours stay aligned.
template <class Tile>
struct Slices {
  float rows[Tile::kSlice][Tile::kRows + 4];
  float columns[Tile::kSlice][Tile::kColumns + 4];
};
__device__ __forceinline__ constexpr int slot_of(int reduction, int outer) {
  return outer ^ (reduction & 8);
}

// An operand seen as [outer, reduction], its first element that of the tile.
template <typename T>
struct Operand {
  const T* data;
  int64_t pitch;           // of the dimension that is not contiguous
  int64_t outer_left;      // elements from here on count as zeros,
  int64_t reduction_left;  // in either dimension
};

// ---- load ---------------------------------------------------------------------------------------

// A thread's part of the slices of one operand: kQuads times four neighbours.
template <class Tile, typename T, int kOuter, Inner kInner, bool kVectors>
struct Fetcher {
  static constexpr int kQuads = kOuter * Tile::kSlice / 4 / kThreads;
  static_assert(kQuads * 4 * kThreads == kOuter * Tile::kSlice);

  Operand<T> operand;
  Vector<T, 4> fetched[kQuads];

  // Neighbouring threads take neighbouring memory, whichever dimension that is.
  __device__ __forceinline__ static int outer_of(int i) {
    const int q = static_cast<int>(threadIdx.x) + i * kThreads;
    return kInner == Inner::kReduction ? q / (Tile::kSlice / 4) : q % (kOuter / 4) * 4;
  }
  __device__ __forceinline__ static int reduction_of(int i) {
    const int q = static_cast<int>(threadIdx.x) + i * kThreads;
    return kInner == Inner::kReduction ? q % (Tile::kSlice / 4) * 4 : q / (kOuter / 4);
  }

  // The next slice, to registers.
  __device__ __forceinline__ void fetch() {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int outer = outer_of(i), reduction = reduction_of(i);
      constexpr bool kAlongReduction = kInner == Inner::kReduction;
      const T* source = operand.data + (kAlongReduction ? outer * operand.pitch + reduction
                                                        : reduction * operand.pitch + outer);
      if constexpr (kVectors) {  // both extents are multiples of four along the contiguous one
        fetched[i] = {};
        if (outer < operand.outer_left && reduction < operand.reduction_left) {
          fetched[i] = *reinterpret_cast<const Vector<T, 4>*>(source);
        }
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const bool is_inside = outer + (kAlongReduction ? 0 : j) < operand.outer_left &&
                                 reduction + (kAlongReduction ? j : 0) < operand.reduction_left;
          fetched[i].values[j] = is_inside ? source[j] : from_float<T>(0.0f);
        }
      }
    }
    operand.data += Tile::kSlice * (kInner == Inner::kReduction ? 1 : operand.pitch);
    operand.reduction_left -= Tile::kSlice;
  }

  // What was fetched, to shared memory.
  __device__ __forceinline__ void lay_down(float (&slice)[Tile::kSlice][kOuter + 4]) const {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int outer = outer_of(i), reduction = reduction_of(i);
      float values[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j] = to_float(fetched[i].values[j]);
      if constexpr (kInner == Inner::kReduction) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          slice[reduction + j][slot_of(reduction, outer)] = values[j];
        }
      } else {
        *reinterpret_cast<float4*>(&slice[reduction][slot_of(reduction, outer)]) =
            make_float4(values[0], values[1], values[2], values[3]);
      }
    }
  }
};

// ---- multiply -----------------------------------------------------------------------------------

// Which outputs of the tile a thread owns: quads of four rows, 64 apart so that all threads have
// a part of a tile's first 64, and quads of four columns, 32 apart so that a warp reads
// neighbouring quads of shared memory.
inline constexpr int kQuadRowStep = 64;
inline constexpr int kQuadColumnStep = 32;

template <class Tile>
struct ThreadPlace {
  int row;
  int column;

  __device__ ThreadPlace() {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    row = warp / 2 * 16 + lane / 8 * 4;
    column = warp % 2 * (8 * Tile::kThreadColumns) + lane % 8 * 4;
  }
  __device__ __forceinline__ static int row_step(int i) { return i / 4 * kQuadRowStep + i % 4; }
  __device__ __forceinline__ static int column_step(int j) {
    return j / 4 * kQuadColumnStep + j % 4;
  }
};

template <class Tile>
using Sums = float[Tile::kThreadRows][Tile::kThreadColumns];

template <int kCount, int kStep>
__device__ __forceinline__ void load_quads(const float* source, float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const float4 quad = *reinterpret_cast<const float4*>(source + i / 4 * kStep);
    values[i] = quad.x;
    values[i + 1] = quad.y;
    values[i + 2] = quad.z;
    values[i + 3] = quad.w;
  }
}

// How many steps of the reduction are unrolled. Of torch.mm's speed, forward and wgrad (H200,
// 2026-11-23): all 16 0.78 and 0.78, 4 0.81 and 0.83, 8 0.85 and 0.86.
inline constexpr int kUnrolledSteps = 8;

// What a thread reads of a step: of its rows the first kRows, and all of its columns.
template <class Tile, int kRows>
struct Fragments {
  float rows[kRows];
  float columns[Tile::kThreadColumns];

  __device__ __forceinline__ void load(const Slices<Tile>& slices, const ThreadPlace<Tile>& place,
                                       int step) {
    load_quads<kRows, kQuadRowStep>(&slices.rows[step][slot_of(step, place.row)], rows);
    load_quads<Tile::kThreadColumns, kQuadColumnStep>(
        &slices.columns[step][slot_of(step, place.column)], columns);
  }
  // Columns run back and forth, so that neighbours share an operand: fewer products wait for a
  // bank of registers.
  __device__ __forceinline__ void multiply(Sums<Tile>& sums) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int c = 0; c < Tile::kThreadColumns; ++c) {
        const int j = i % 2 == 0 ? c : Tile::kThreadColumns - 1 - c;
        sums[i][j] = fmaf(rows[i], columns[j], sums[i][j]);
      }
    }
  }
};

// Two sets of fragments: one is read while the other is multiplied. The last read is of no use.
template <class Tile, int kRows>
__device__ __forceinline__ void multiply_slices(const Slices<Tile>& slices,
                                                const ThreadPlace<Tile>& place, Sums<Tile>& sums) {
  static_assert(Tile::kSlice % kUnrolledSteps == 0 && kUnrolledSteps % 2 == 0);
  Fragments<Tile, kRows> fragments[2];
  fragments[0].load(slices, place, 0);
#pragma unroll 1
  for (int first = 0; first < Tile::kSlice; first += kUnrolledSteps) {
#pragma unroll
    for (int u = 0; u < kUnrolledSteps; ++u) {
      fragments[(u + 1) % 2].load(slices, place, (first + u + 1) % Tile::kSlice);
      fragments[u % 2].multiply(sums);
    }
  }
}

// sums = rows columns^T over all of the reduction, for each thread's first kRows rows.
// `slices`: two, in shared memory.
template <class Tile, int kRows, class RowFetcher, class ColumnFetcher>
__device__ __forceinline__ void multiply_rows(RowFetcher& rows, ColumnFetcher& columns,
                                              Slices<Tile>* slices, const ThreadPlace<Tile>& place,
                                              Sums<Tile>& sums) {
  const int64_t num_slices = base::ceil_div(rows.operand.reduction_left, Tile::kSlice);
  rows.fetch();
  columns.fetch();
  for (int64_t s = 0; s < num_slices; ++s) {
    Slices<Tile>& current = slices[s % 2];
    rows.lay_down(current.rows);
    columns.lay_down(current.columns);
    __syncthreads();  // and everybody is done with the other slice
    // Past the end these read nothing. NOTE: under a condition, or without what follows, the
    // compiler moves them behind the products, which then hide no latency (-25 %).
    rows.fetch();
    columns.fetch();
    asm volatile("" ::: "memory");
    multiply_slices<Tile, kRows>(current, place, sums);
  }
}

// The same for a whole tile, of which only `num_rows` rows count: the ragged end of a group. At
// most 64 of them cost half of 128 (H200, 2026-11-23, 512 rows a group: 2 to 5 % faster).
template <class Tile, class RowFetcher, class ColumnFetcher>
__device__ __forceinline__ void multiply_tile(RowFetcher& rows, ColumnFetcher& columns,
                                              Slices<Tile>* slices, const ThreadPlace<Tile>& place,
                                              int64_t num_rows, Sums<Tile>& sums) {
  constexpr int kAll = Tile::kThreadRows, kFirstQuad = 4;
  if (kAll > kFirstQuad && num_rows <= kQuadRowStep) {
    multiply_rows<Tile, kFirstQuad>(rows, columns, slices, place, sums);
  } else {
    multiply_rows<Tile, kAll>(rows, columns, slices, place, sums);
  }
}

// ---- store --------------------------------------------------------------------------------------

template <typename Out>
__device__ __forceinline__ void store_quad(Out* target, const float* sums, int64_t columns_left,
                                           bool by_vector, bool accumulate) {
  if (by_vector) {
    if (columns_left <= 0) return;
    Vector<Out, 4>& quad = *reinterpret_cast<Vector<Out, 4>*>(target);
    Vector<Out, 4> old = {};
    if (accumulate) old = quad;
    Vector<Out, 4> result;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      result.values[j] = from_float<Out>(accumulate ? to_float(old.values[j]) + sums[j] : sums[j]);
    }
    quad = result;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j >= columns_left) return;
    target[j] = from_float<Out>(accumulate ? to_float(target[j]) + sums[j] : sums[j]);
  }
}

template <class Tile, typename Out>
__device__ __forceinline__ void store_tile_as(const OutArgs& out, Out* tile, int64_t rows_left,
                                              int64_t columns_left, const ThreadPlace<Tile>& place,
                                              const Sums<Tile>& sums) {
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i) {
    const int row = place.row + place.row_step(i);
    if (row >= rows_left) continue;
#pragma unroll
    for (int j = 0; j < Tile::kThreadColumns; j += 4) {
      const int column = place.column + place.column_step(j);
      store_quad(tile + row * out.pitch + column, &sums[i][j], columns_left - column,
                 out.has_vectors, out.accumulate);
    }
  }
}

// Writes the tile whose first element is at `offset` of out, clipped.
template <class Tile, typename In>
__device__ __forceinline__ void store_tile(const OutArgs& out, int64_t offset, int64_t rows_left,
                                           int64_t columns_left, const ThreadPlace<Tile>& place,
                                           const Sums<Tile>& sums) {
  if constexpr (sizeof(In) < sizeof(float)) {
    if (!out.is_float) {
      return store_tile_as<Tile>(out, static_cast<In*>(out.data) + offset, rows_left, columns_left,
                                 place, sums);
    }
  }
  store_tile_as<Tile>(out, static_cast<float*>(out.data) + offset, rows_left, columns_left, place,
                      sums);
}

}  // namespace gg::cuda::simt
