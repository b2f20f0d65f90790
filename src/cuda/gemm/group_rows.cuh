// Which rows belong to which group, found by every thread block for itself from
// sizes in device memory. Nobody has checked those: negative sizes count as 0,
// falling ends as empty groups, and whatever lies beyond the T rows is cut off,
// so that no kernel leaves its operands.
#pragma once

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "base/math.h"
#include "cuda/gemm/groups.h"

namespace gg::cuda {

// Rows [begin, end) of one group. group == num_groups: the rows past the last
// group. group < 0: nothing.
struct GroupRows {
  int64_t group;
  int64_t begin;
  int64_t end;
};

// Sizes are summed, ends take the running maximum; both are scans.
struct Combine {
  bool cumulative;
  __device__ int64_t operator()(int64_t a, int64_t b) const {
    return cumulative ? base::max(a, b) : a + b;
  }
};

__device__ inline int64_t clamped_entry(const DeviceGroups& groups, int64_t index,
                                        int64_t num_rows) {
  const int64_t entry = groups.is_int64 ? static_cast<const int64_t*>(groups.data)[index]
                                        : static_cast<const int32_t*>(groups.data)[index];
  return base::clamp(entry, 0, num_rows);
}

// The rows of one group; all kThreads threads call it.
template <int kThreads>
__device__ GroupRows rows_of_group(const DeviceGroups& groups, int64_t num_rows, int64_t group) {
  using Reduce = cub::BlockReduce<int64_t, kThreads>;
  __shared__ typename Reduce::TempStorage reduce;
  __shared__ int64_t begin;
  int64_t before = 0;
  const Combine combine{groups.cumulative};
  for (int64_t e = threadIdx.x; e < group; e += kThreads) {
    before = combine(before, clamped_entry(groups, e, num_rows));
  }
  before = Reduce(reduce).Reduce(before, combine);
  if (threadIdx.x == 0) begin = base::min(before, num_rows);
  __syncthreads();
  const int64_t end = combine(begin, clamped_entry(groups, group, num_rows));
  return {group, begin, base::min(end, num_rows)};
}

// Tile number `tile` when every group, and then the rest, is cut into tiles of
// tile_rows rows; all kThreads threads call it. There are at most
// max_row_tiles() of them.
template <int kThreads>
__device__ GroupRows rows_of_tile(const DeviceGroups& groups, int64_t num_rows, int64_t tile_rows,
                                  int64_t tile) {
  using Scan = cub::BlockScan<int64_t, kThreads>;
  __shared__ typename Scan::TempStorage scan;
  __shared__ GroupRows found;
  const Combine combine{groups.cumulative};
  int64_t rows_before = 0;
  int64_t tiles_before = 0;
  if (threadIdx.x == 0) found.group = -1;
  for (int64_t first = 0; first <= groups.num_groups; first += kThreads) {
    const int64_t group = first + threadIdx.x;
    int64_t end = group < groups.num_groups ? clamped_entry(groups, group, num_rows) : 0;
    if (threadIdx.x == 0) end = combine(rows_before, end);
    Scan(scan).InclusiveScan(end, end, combine);
    end = group < groups.num_groups ? base::min(end, num_rows) : num_rows;
    __syncthreads();
    int64_t begin;  // the previous group's end
    int64_t chunk_end;
    Scan(scan).ExclusiveScan(end, begin, rows_before, Combine{.cumulative = true}, chunk_end);
    __syncthreads();
    const int64_t num_tiles =
        group <= groups.num_groups ? base::ceil_div(end - begin, tile_rows) : 0;
    int64_t first_tile;
    int64_t chunk_tiles;
    Scan(scan).ExclusiveSum(num_tiles, first_tile, chunk_tiles);
    const int64_t local = tile - tiles_before - first_tile;
    if (local >= 0 && local < num_tiles) {
      const int64_t tile_begin = begin + local * tile_rows;
      found = {group, tile_begin, base::min(tile_begin + tile_rows, end)};
    }
    __syncthreads();
    if (found.group >= 0) break;
    rows_before = base::max(rows_before, chunk_end);
    tiles_before += chunk_tiles;
  }
  return found;
}

}  // namespace gg::cuda
