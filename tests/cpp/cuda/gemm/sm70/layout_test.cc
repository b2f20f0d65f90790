// The index arithmetic of Volta's and Turing's kernels, walked on the CPU: what each
// thread stores, what each lane asks ldmatrix for, and what mma.sync makes of it, with both
// instructions spelt out as the PTX manual draws them. Needs no GPU.
#include "cuda/gemm/sm70/layout.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

#include "support/shapes.h"

namespace gg::cuda::sm70 {
namespace {

using Tile = std::vector<float>;  // shared memory, an element each
using Part = std::array<float, 2>;
using Fragment = std::array<std::array<Part, 4>, 32>;  // of each lane

template <typename Layout_, int kOuter_>
struct Case {
  using Layout = Layout_;
  static constexpr int kOuter = kOuter_;
};
template <int kOuter, Major kMajor, int kThreads>
using CaseOf = Case<TileLayout<kOuter, kMajor, kThreads>, kOuter>;

template <typename T>
class Layouts : public testing::Test {};
using AllLayouts =
    testing::Types<CaseOf<256, Major::kReduction, 256>, CaseOf<256, Major::kOuter, 256>,
                   CaseOf<128, Major::kReduction, 256>, CaseOf<128, Major::kOuter, 256>,
                   CaseOf<64, Major::kReduction, 128>, CaseOf<64, Major::kOuter, 128>>;
TYPED_TEST_SUITE(Layouts, AllLayouts);

TYPED_TEST(Layouts, BringEveryElementOnceToAPlaceOfItsOwn) {
  using Layout = typename TypeParam::Layout;
  std::set<int> places;
  for (int chunk = 0; chunk < Layout::kNumChunks; ++chunk) {
    const int outer = Layout::outer_of(chunk);
    const int step = Layout::step_of(chunk);
    for (int i = 0; i < kChunk; ++i) {
      const bool is_along_steps = Layout::kContiguous == Major::kReduction;
      const int o = outer + (is_along_steps ? 0 : i);
      const int s = step + (is_along_steps ? i : 0);
      ASSERT_TRUE(o >= 0 && o < TypeParam::kOuter && s >= 0 && s < kTileK);
      EXPECT_EQ(Layout::offset(o, s), Layout::offset(outer, step) + i) << "one store of 16 bytes";
      EXPECT_LT(Layout::offset(o, s), Layout::kElements);
      places.insert(Layout::offset(o, s));
    }
    EXPECT_EQ(Layout::offset(outer, step) % kChunk, 0);
  }
  EXPECT_EQ(places.size(), static_cast<size_t>(TypeParam::kOuter * kTileK));
}

// Whether 8 accesses of 16 bytes go to different banks.
template <typename Offset>
bool are_apart(const Offset& offset_of) {
  std::set<int> banks;
  for (int i = 0; i < 8; ++i) banks.insert(offset_of(i) / kChunk % 8);
  return banks.size() == 8;
}

TYPED_TEST(Layouts, LetEightNeighboursMeetInNoBank) {
  using Layout = typename TypeParam::Layout;
  for (int first = 0; first < Layout::kNumChunks; first += 8) {
    EXPECT_TRUE(are_apart([&](int i) {
      return Layout::offset(Layout::outer_of(first + i), Layout::step_of(first + i));
    })) << "the store of chunk "
        << first;
  }
  for (int outer = 0; outer < TypeParam::kOuter; outer += kPatch) {
    for (int step = 0; step < kTileK; step += kPatch) {
      const int patch = Layout::offset(outer, step);
      EXPECT_EQ(patch * 2 % 32, 0) << "what WMMA's loads ask of an address";
      for (int lane = 0; lane < 32; lane += 8) {
        EXPECT_TRUE(are_apart([&](int i) { return patch + Layout::lane_offset(lane + i); }));
      }
    }
  }
}

// ldmatrix.x4, .trans where the tile is contiguous along outer.
template <typename Layout>
Fragment load_fragment(const Tile& tile, int patch) {
  Fragment fragment;
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int i = 0; i < 2; ++i) {
        const bool transposes = Layout::kContiguous == Major::kOuter;
        const int row = transposes ? lane % 4 * 2 + i : lane / 4;
        const int column = transposes ? lane / 4 : lane % 4 * 2 + i;
        const int address = patch + Layout::lane_offset(matrix * 8 + row);
        fragment[static_cast<size_t>(lane)][static_cast<size_t>(matrix)][static_cast<size_t>(i)] =
            tile[static_cast<size_t>(address + column)];
      }
    }
  }
  return fragment;
}

// mma.sync m16n8k8: sums[lane][value] += left right.
void mma(std::array<std::array<float, 4>, 32>& sums, const Fragment& left, size_t top,
         size_t bottom, const Fragment& right, size_t part) {
  float a[16][8], b[8][8];
  for (size_t lane = 0; lane < 32; ++lane) {
    for (size_t i = 0; i < 2; ++i) {
      a[lane / 4][lane % 4 * 2 + i] = left[lane][top][i];
      a[lane / 4 + 8][lane % 4 * 2 + i] = left[lane][bottom][i];
      b[lane % 4 * 2 + i][lane / 4] = right[lane][part][i];
    }
  }
  for (size_t lane = 0; lane < 32; ++lane) {
    for (size_t value = 0; value < 4; ++value) {
      const size_t row = lane / 4 + (value < 2 ? 0 : 8);
      const size_t column = lane % 4 * 2 + value % 2;
      for (size_t k = 0; k < 8; ++k) sums[lane][value] += a[row][k] * b[k][column];
    }
  }
}

template <typename Layout, int kOuter>
Tile random_tile(uint64_t seed, std::vector<float>& plain) {
  test::Random random(seed);
  plain.resize(kOuter * kTileK);
  for (float& value : plain) value = static_cast<float>(random.below(17) - 8);
  Tile tile(Layout::kElements, 1e9f);  // what lies between rows must not be read
  for (int outer = 0; outer < kOuter; ++outer) {
    for (int step = 0; step < kTileK; ++step) {
      tile[static_cast<size_t>(Layout::offset(outer, step))] =
          plain[static_cast<size_t>(outer * kTileK + step)];
    }
  }
  return tile;
}

template <typename Policy, Major kLeft, Major kRight>
void expect_right_products() {
  using Left = TileLayout<Policy::kTileRows, kLeft, Policy::kThreads>;
  using Right = TileLayout<Policy::kTileColumns, kRight, Policy::kThreads>;
  std::vector<float> a, b;
  const Tile left = random_tile<Left, Policy::kTileRows>(1, a);
  const Tile right = random_tile<Right, Policy::kTileColumns>(2, b);
  for (int row = 0; row < Policy::kTileRows; row += kPatch) {
    for (int column = 0; column < Policy::kTileColumns; column += kPatch) {
      std::array<std::array<std::array<float, 4>, 32>, 2> sums{};  // columns 0-7, 8-15
      for (int step = 0; step < kTileK; step += kPatch) {
        const Fragment rows = load_fragment<Left>(left, Left::offset(row, step));
        const Fragment columns = load_fragment<Right>(right, Right::offset(column, step));
        for (size_t steps = 0; steps < 2; ++steps) {  // as Mma::multiply has it
          for (size_t half = 0; half < 2; ++half) {
            mma(sums[half], rows, 2 * steps, 2 * steps + 1, columns, 2 * steps + half);
          }
        }
      }
      for (int lane = 0; lane < 32; ++lane) {
        for (int value = 0; value < 8; ++value) {
          const int r = row + sum_row(lane, value % 4);
          const int c = column + value / 4 * 8 + sum_column(lane, value % 4);
          float wanted = 0;
          for (int k = 0; k < kTileK; ++k) {
            wanted +=
                a[static_cast<size_t>(r * kTileK + k)] * b[static_cast<size_t>(c * kTileK + k)];
          }
          ASSERT_EQ(sums[static_cast<size_t>(value / 4)][static_cast<size_t>(lane)]
                        [static_cast<size_t>(value % 4)],
                    wanted)
              << "row " << r << " column " << c;
        }
      }
    }
  }
}

TEST(MmaFragments, MultiplyToTheProductOfTheTiles) {
  for (const GmmPolicy& policy : {GmmPolicy{256}, GmmPolicy{128}, GmmPolicy{64}}) {
    with_policy(policy, []<typename Policy>(Policy) {
      expect_right_products<Policy, Major::kReduction, Major::kReduction>();
      expect_right_products<Policy, Major::kReduction, Major::kOuter>();
      expect_right_products<Policy, Major::kOuter, Major::kOuter>();
    });
  }
}

}  // namespace
}  // namespace gg::cuda::sm70
