// From group sizes in device memory to tiles: which group a tile's number belongs to.
// Tiles are numbered group by group, in each of two classes of groups. One warp walks the
// groups 32 at a time, so that thousands of them stay cheap. Used by the schedulers of
// persistent kernels (sm80/, sm90/).
#pragma once

#include "base/math.h"
#include "cuda/common/ptx.cuh"
#include "cuda/gemm/groups.h"

namespace gg::cuda {

inline constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }
__device__ __forceinline__ int divide_up(int a, int b) { return (a + b - 1) / b; }

// Values >= 0 over the lanes of a warp; `combine` is associative.
template <typename Combine>
__device__ __forceinline__ int inclusive_scan(int value, const Combine& combine) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int combined = combine(__shfl_up_sync(kWholeWarp, value, step), value);
    value = lane_index() >= step ? combined : value;  // a select: no branch
  }
  return value;
}

// A tile before its place in the output is known.
struct GroupTile {
  int group;      // -1: there are no more tiles
  int row_begin;  // of the group
  int rows;       // of the group
  int number;     // of the tile among the group's
};

// 32 groups at a time, one a lane: their rows and the numbers of their tiles, of
// which TilesOf says how many a group of so many rows has. Nobody has checked
// device sizes: negative ones count as 0, falling ends as empty groups, what lies
// beyond the T rows is cut off (as group_rows.cuh does).
template <class TilesOf>
struct GroupWindow {
  const DeviceGroups& groups;
  const int num_rows;  // T, at most 2^30
  const TilesOf tiles_of;
  int next_group = 0;  // the first one past the window
  int2 upcoming;       // this lane's entry for the next window, as loaded
  int row_begin = 0, row_end = 0;
  int tile_begin = 0, tile_end = 0;
  int last_row = 0, last_tile = 0;  // ends of the window: of all groups so far
  const int small_rows;             // groups of at most so many rows are a class; -1: one class
  bool is_small = false;            // the class whose tiles count

  __device__ GroupWindow(const DeviceGroups& groups, int num_rows, TilesOf tiles_of, int small_rows)
      : groups(groups), num_rows(num_rows), tiles_of(tiles_of), small_rows(small_rows) {
    prefetch();
    rewind();
  }

  // Into L2, so that windows come one after the other at its latency, not at memory's.
  __device__ __forceinline__ void prefetch() const {
    constexpr int kLine = 128;
    const int64_t bytes = groups.num_groups * (groups.is_int64 ? 8 : 4);
    const int64_t offset = (lane_index() + 1) * int64_t{kLine};  // the first line is loaded at once
    if (offset < bytes) ptx::prefetch_l2(static_cast<const char*>(groups.data) + offset);
  }

  // What all groups come to. Sizes that reach past the T rows count in full here.
  struct Totals {
    float work = 0.0f, small_work = 0.0f;
    int large_tiles = 0;  // of groups that are not small
  };

  // Every block comes to the same.
  __device__ Totals totals() const {
    Totals sum;
    int end = 0;  // of the last group before the window, where entries are ends
    int2 words = load(0);
#pragma unroll 1
    for (int first = 0; first < groups.num_groups; first += 32) {
      const int entry = clamped(words);
      words = load(first + 32);
      const int lower = __shfl_up_sync(kWholeWarp, entry, 1);
      const int before = lane_index() == 0 ? end : lower;
      end = __shfl_sync(kWholeWarp, entry, 31);
      const int rows = groups.cumulative ? max(0, entry - before) : entry;
      const bool exists = first + lane_index() < groups.num_groups;
      const float work = exists ? tiles_of.work(rows) : 0.0f;
      const bool small = rows <= small_rows;
      sum.work += work;
      sum.small_work += small ? work : 0.0f;
      sum.large_tiles += small ? 0 : tiles_of(rows);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      sum.work += __shfl_xor_sync(kWholeWarp, sum.work, step);
      sum.small_work += __shfl_xor_sync(kWholeWarp, sum.small_work, step);
      sum.large_tiles += __shfl_xor_sync(kWholeWarp, sum.large_tiles, step);
    }
    return sum;
  }

  // Groups past the last one are empty: size 0, or an end of 0. NOTE: a load and
  // nothing else; whatever works on the value here would wait for it.
  __device__ __forceinline__ int2 load(int first_group) const {
    const int64_t group = first_group + lane_index();
    int2 words{0, 0};
    if (group >= groups.num_groups) return words;
    if (groups.is_int64) {
      words = static_cast<const int2*>(groups.data)[group];
    } else {
      words.x = static_cast<const int32_t*>(groups.data)[group];
    }
    return words;
  }

  __device__ __forceinline__ int clamped(int2 words) const {
    const int64_t wide = int64_t{words.y} << 32 | static_cast<uint32_t>(words.x);
    return static_cast<int>(base::clamp(groups.is_int64 ? wide : words.x, 0, num_rows));
  }

  __device__ __forceinline__ int combined(int before, int value) const {
    if (groups.cumulative) return max(before, value);
    const unsigned sum = static_cast<unsigned>(before) + static_cast<unsigned>(value);
    return static_cast<int>(min(sum, static_cast<unsigned>(num_rows)));  // 2^30 + 2^30 is no int
  }

  __device__ __forceinline__ bool has_more() const { return next_group < groups.num_groups; }

  __device__ __forceinline__ void advance() {
    const int entry = clamped(upcoming);
    const bool exists = next_group + lane_index() < groups.num_groups;
    next_group += 32;
    upcoming = load(next_group);  // early: its latency passes under the tile in between
    row_end =
        combined(last_row, inclusive_scan(entry, [&](int a, int b) { return combined(a, b); }));
    const int before = __shfl_up_sync(kWholeWarp, row_end, 1);
    row_begin = lane_index() == 0 ? last_row : before;
    const bool counts = exists && (row_end - row_begin <= small_rows) == is_small;
    const int tiles = counts ? tiles_of(row_end - row_begin) : 0;
    tile_end = last_tile + inclusive_scan(tiles, [](int a, int b) { return a + b; });
    tile_begin = tile_end - tiles;
    last_row = __shfl_sync(kWholeWarp, row_end, 31);
    last_tile = __shfl_sync(kWholeWarp, tile_end, 31);
  }

  // Back before the first window.
  __device__ __forceinline__ void rewind() {
    next_group = last_row = last_tile = tile_begin = tile_end = 0;
    upcoming = load(0);
  }

  // Numbers are asked for in rising order since the last rewind(), by all 32 lanes.
  __device__ __forceinline__ GroupTile find(int number) {
    while (number >= last_tile) {
      if (!has_more()) return {-1, 0, 0, 0};
      advance();
    }
    // Lanes whose tiles all come before it; those of groups without tiles do, too.
    const int lane = __popc(__ballot_sync(kWholeWarp, tile_end <= number));
    const int begin = __shfl_sync(kWholeWarp, row_begin, lane);
    const int rows = __shfl_sync(kWholeWarp, row_end, lane) - begin;
    return {next_group - 32 + lane, begin, rows,
            number - __shfl_sync(kWholeWarp, tile_begin, lane)};
  }
};

}  // namespace gg::cuda
