// The tables that every operator's tests share, so that none forgets an edge
// case, and reproducible contents for them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "support/tensor.h"

namespace gg::test {

// Rows of each expert's group.
struct GroupShape {
  const char* name;
  std::vector<int64_t> sizes;

  int64_t num_experts() const { return static_cast<int64_t>(sizes.size()); }
  int64_t num_rows() const {
    int64_t sum = 0;
    for (int64_t size : sizes) sum += size;
    return sum;
  }
};

inline std::vector<GroupShape> group_shapes() {
  return {
      {"NoTokens", {0, 0, 0}},
      {"OneToken", {0, 1, 0}},
      {"AllToOneExpert", {0, 0, 37, 0}},
      {"EverySecondExpertEmpty", {5, 0, 7, 0, 3, 0}},
      {"OneGroup", {33}},
      {"Groups256OfOneRow", std::vector<int64_t>(256, 1)},
      {"AroundTileEdges", {1, 63, 64, 65, 127, 129}},
  };
}

inline void PrintTo(const GroupShape& shape, std::ostream* out) { *out << shape.name; }

inline std::string shape_name(const testing::TestParamInfo<GroupShape>& info) {
  return info.param.name;
}

// Reduction K and output features N: one, odd, shorter than 16 bytes, around tiles.
struct MatrixShape {
  int64_t k;
  int64_t n;
};
inline constexpr MatrixShape kMatrixShapes[] = {{1, 1}, {3, 5}, {7, 2}, {16, 24}, {63, 65}};
inline constexpr MatrixShape kLongMatrixShapes[] = {{7168, 3}, {3, 7168}};

inline constexpr DType kGemmDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
inline constexpr DType kPermuteDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16,
                                           DType::kFloat8E4M3, DType::kFloat8E5M2};
inline constexpr int64_t kHiddenSizes[] = {1, 3, 7, 8, 64, 129};
inline constexpr int64_t kTopKs[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 129};

// How a matrix, or a batch of them, lies in memory.
enum class Layout { kPlain, kTransposed, kGaps, kUnaligned };
inline constexpr Layout kLayouts[] = {Layout::kPlain, Layout::kTransposed, Layout::kGaps,
                                      Layout::kUnaligned};

inline Tensor laid_out(DType dtype, std::vector<int64_t> sizes, Layout layout) {
  const size_t last = sizes.size() - 1;
  const int64_t element_step = layout == Layout::kGaps ? 2 : 1;
  const int64_t pitch_gap = layout == Layout::kGaps ? 3 : 0;
  std::vector<int64_t> strides(sizes.size());
  size_t inner = last;
  size_t outer = last - 1;
  if (layout == Layout::kTransposed) std::swap(inner, outer);
  strides[inner] = element_step;
  strides[outer] = sizes[inner] * element_step + pitch_gap;
  if (sizes.size() == 3) strides[0] = sizes[outer] * strides[outer] + pitch_gap;
  return Tensor(dtype, sizes, strides, layout == Layout::kUnaligned ? 1 : 0);
}

// The same sequence on every machine (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t limit) {
    return static_cast<int64_t>(next() % static_cast<uint64_t>(limit));
  }
  double between(double low, double high) {
    return low + (high - low) * static_cast<double>(next() >> 11) * 0x1p-53;
  }

 private:
  uint64_t state_;
};

inline void fill_random(Tensor& tensor, uint64_t seed, double low = -1, double high = 1) {
  Random random(seed);
  for (int64_t i = 0; i < tensor.num_elements(); ++i) tensor.set(i, random.between(low, high));
}

// Expert ids for T = num_rows tokens of topk slots each, in random order, such
// that expert e has sizes[e] * topk slots.
inline std::vector<int64_t> random_ids(const GroupShape& shape, int64_t topk, uint64_t seed) {
  std::vector<int64_t> ids;
  for (int64_t e = 0; e < shape.num_experts(); ++e) {
    ids.insert(ids.end(), static_cast<size_t>(shape.sizes[static_cast<size_t>(e)] * topk), e);
  }
  Random random(seed);
  for (size_t i = ids.size(); i > 1; --i) {
    std::swap(ids[i - 1], ids[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
  }
  return ids;
}

}  // namespace gg::test
