// The row map that route makes beside its choice, and the same by a plain count.
#pragma once

#include <vector>

#include "support/route_case.h"

namespace gg::test {

struct RowMapCase {
  int64_t align_size;
  Tensor row_id_map, offsets;

  RowMapCase(const RouteCase& route, int64_t align)
      : align_size(align),
        row_id_map(DType::kInt32, {route.options.topk, route.T()}),
        offsets(DType::kInt32, {route.E()}) {}

  void expect_right(const RouteCase& route) const {
    const std::vector<int64_t> ids = route.indices.integers();
    std::vector<int64_t> next(static_cast<size_t>(route.E()));
    for (int64_t id : ids) ++next[static_cast<size_t>(id)];
    std::vector<int64_t> ends;
    int64_t row = 0;
    for (int64_t& count : next) {
      const int64_t end = (row + count + align_size - 1) / align_size * align_size;
      count = row;
      ends.push_back(row = end);
    }
    std::vector<int64_t> map(ids.size());
    const size_t topk = static_cast<size_t>(route.options.topk);
    for (size_t slot = 0; slot < ids.size(); ++slot) {
      map[slot % topk * (ids.size() / topk) + slot / topk] = next[static_cast<size_t>(ids[slot])]++;
    }
    EXPECT_EQ(offsets.integers(), ends);
    EXPECT_EQ(row_id_map.integers(), map);
    EXPECT_TRUE(offsets.guards_intact());
    EXPECT_TRUE(row_id_map.guards_intact());
  }
};

// (T, E, topk): slots of one block of the CUDA map and of many, whole ranges and cut ones.
inline constexpr std::tuple<int64_t, int64_t, int> kRouteMapShapes[] = {
    {0, 12, 2},    {1, 8, 1},     {70, 33, 8},    {512, 128, 8},  {513, 128, 8},
    {900, 20, 11}, {3000, 64, 3}, {2100, 600, 4}, {300, 1024, 32}};

}  // namespace gg::test
