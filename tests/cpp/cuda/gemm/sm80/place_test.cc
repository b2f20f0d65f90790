// The sm80 kernels' shared memory, walked through on the host: what all threads copy is what
// every lane's fragments of mma.sync ask for, and no access meets itself in a bank. Needs no GPU.
#include "cuda/gemm/sm80/place.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

namespace gg::cuda::sm80 {
namespace {

// One slice of one operand; each element is named by its place in the tile and the reduction.
struct Element {
  int outer = -1;  // row of the output for the left operand, column for the right one
  int k = -1;

  bool operator==(const Element&) const = default;
};

// The block that copies an operand.
template <class Lies>
constexpr int kThreads = 0;
template <int kElementBytes, int kExtent, int kCount>
constexpr int kThreads<KMajorPlace<kElementBytes, kExtent, kCount>> = kCount;
template <int kElementBytes, int kExtent, int kCount>
constexpr int kThreads<MnMajorPlace<kElementBytes, kExtent, kCount>> = kCount;

// What Wide's and Pair's blocks copy.
template <int kElementBytes>
using WideKMajor = KMajorPlace<kElementBytes, Wide::kTileColumns, Wide::kThreads>;
template <int kElementBytes>
using PairKMajor = KMajorPlace<kElementBytes, Pair::kTileColumns, Pair::kThreads>;
template <int kElementBytes>
using WideMnMajor = MnMajorPlace<kElementBytes, Wide::kTileColumns, Wide::kThreads>;
template <int kElementBytes>
using PairMnMajor = MnMajorPlace<kElementBytes, Pair::kTileColumns, Pair::kThreads>;
// Wide's left operand.
template <int kElementBytes>
using RowsKMajor = KMajorPlace<kElementBytes, kTileRows, Wide::kThreads>;
template <int kElementBytes>
using RowsMnMajor = MnMajorPlace<kElementBytes, kTileRows, Wide::kThreads>;
static_assert(kTileRows == Pair::kTileColumns, "Pair's operands lie alike");

// Shared memory by bytes, as the copies fill it. Copies(...) names the first element of a chunk.
template <int kBytes, int kElementBytes>
class Slice {
 public:
  void put(int offset, Element first, bool k_runs) {
    ASSERT_EQ(offset % 16, 0);
    for (int i = 0; i < 16 / kElementBytes; ++i) {
      Element& target = elements_.at(static_cast<size_t>(offset / kElementBytes + i));
      ASSERT_EQ(target, Element{}) << "two chunks meet at " << offset;
      target = {first.outer + (k_runs ? 0 : i), first.k + (k_runs ? i : 0)};
    }
  }
  Element at(int offset) const { return elements_.at(static_cast<size_t>(offset / kElementBytes)); }

 private:
  std::array<Element, kBytes / kElementBytes> elements_{};
};

template <int kElementBytes, int kExtent, int kCount>
auto filled(KMajorPlace<kElementBytes, kExtent, kCount>) {
  using Lies = KMajorPlace<kElementBytes, kExtent, kCount>;
  Slice<Lies::kBytes, kElementBytes> slice;
  for (int thread = 0; thread < kCount; ++thread) {
    for (int pass = 0; pass < Lies::kPasses; ++pass) {
      slice.put(Lies::copy_target(thread) + pass * Lies::kPassBytes,
                {thread / Lies::kChunks + pass * Lies::kRowsPerPass,
                 thread % Lies::kChunks * (16 / kElementBytes)},
                true);
    }
  }
  return slice;
}

template <int kElementBytes, int kExtent, int kCount>
auto filled(MnMajorPlace<kElementBytes, kExtent, kCount>) {
  using Lies = MnMajorPlace<kElementBytes, kExtent, kCount>;
  Slice<Lies::kBytes, kElementBytes> slice;
  for (int thread = 0; thread < kCount; ++thread) {
    for (int pass = 0; pass < Lies::kPasses; ++pass) {
      slice.put(Lies::copy_target(thread) + pass * Lies::kPassBytes,
                {thread % Lies::kChunks * (16 / kElementBytes),
                 thread / Lies::kChunks + pass * Lies::kRowsPerPass},
                false);
    }
  }
  return slice;
}

// The banks that some lanes' accesses of so many bytes touch are all different.
template <class OffsetOf>
void expect_no_conflict(const OffsetOf& offset_of, int lanes, int bytes) {
  for (int first = 0; first < 32; first += lanes) {
    std::set<int> banks;
    for (int lane = first; lane < first + lanes; ++lane) {
      for (int byte = 0; byte < bytes; byte += 4) banks.insert((offset_of(lane) + byte) / 4 % 32);
    }
    ASSERT_EQ(banks.size(), static_cast<size_t>(lanes * bytes / 4)) << "lanes from " << first;
  }
}

// ldmatrix.x4: the 2 (or 1) elements of 4 bytes that `lane` gets of matrix m.
template <int kElementBytes, class Memory, class OffsetOf>
std::vector<Element> matrix_word(const Memory& slice, const OffsetOf& offset_of, int m, int lane,
                                 bool transposed) {
  std::vector<Element> word;
  for (int i = 0; i < 4 / kElementBytes; ++i) {
    const int row = transposed ? lane % 4 * 2 + i : lane / 4;
    const int byte = transposed ? lane / 4 * 2 : lane % 4 * 4 + i * kElementBytes;
    word.push_back(slice.at(offset_of(m * 8 + row) + byte));
  }
  return word;
}

// What mma.sync wants in a lane's register: of 8 rows (or columns) from `outer` on and 16 bytes
// of reduction from k on.
template <int kElementBytes>
std::vector<Element> wanted_word(int outer, int k, int lane) {
  std::vector<Element> word;
  for (int i = 0; i < 4 / kElementBytes; ++i) {
    word.push_back({outer + lane / 4, k + lane % 4 * (4 / kElementBytes) + i});
  }
  return word;
}

// by_matrices: four matrices in the order of ldmatrix. `corner(m)`: outer and k, relative to the
// fragment, of the register that matrix m becomes.
template <class Lies, int kElementBytes, bool kTransposed, class Memory, class Offset, class Corner>
void expect_matrices(const Memory& slice, const Offset& offset_of_thread, int warp,
                     const Corner& corner) {
  const auto offset_of = [&](int lane) { return offset_of_thread(warp * 32 + lane); };
  expect_no_conflict(offset_of, 8, 16);
  for (int m = 0; m < 4; ++m) {
    for (int lane = 0; lane < 32; ++lane) {
      const Element at = corner(m);
      ASSERT_EQ(matrix_word<kElementBytes>(slice, offset_of, m, lane, kTransposed),
                wanted_word<kElementBytes>(at.outer, at.k, lane))
          << "warp " << warp << " lane " << lane << " matrix " << m;
    }
  }
}

template <int kElementBytes>
constexpr int kStepElements = 32 / kElementBytes;

template <int kElementBytes, class Lies, bool kTransposed>
void expect_left_matrices() {
  const auto slice = filled(Lies{});
  for (int warp = 0; warp < kThreads<Lies> / 32; ++warp) {
    for (int step = 0; step < kSteps; ++step) {
      for (int f = 0; f < kTileRows / kRowStep; ++f) {
        const auto offset = [&](int thread) {
          return Lies::left(Lies::left_lane(Place::of<kThreads<Lies>>(thread)), step, f);
        };
        const int row = Place::of<kThreads<Lies>>(warp * 32).row_block(f);
        expect_matrices<Lies, kElementBytes, kTransposed>(slice, offset, warp, [&](int m) {
          return Element{row + m % 2 * 8, (2 * step + m / 2) * kStepElements<kElementBytes> / 2};
        });
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

template <int kElementBytes, class Lies, bool kTransposed>
void expect_right_matrices() {
  const auto slice = filled(Lies{});
  for (int warp = 0; warp < kThreads<Lies> / 32; ++warp) {
    for (int step = 0; step < kSteps; ++step) {
      for (int pair = 0; pair < kWarpColumns / 16; ++pair) {
        const auto offset = [&](int thread) {
          return Lies::right(Lies::right_lane(Place::of<kThreads<Lies>>(thread)), step, pair);
        };
        const int column =
            Place::of<kThreads<Lies>>(warp * 32).column_warp * kWarpColumns + pair * 16;
        expect_matrices<Lies, kElementBytes, kTransposed>(slice, offset, warp, [&](int m) {
          return Element{column + m / 2 * 8, (2 * step + m % 2) * kStepElements<kElementBytes> / 2};
        });
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(Sm80KMajorOperands, GiveEveryLaneItsRows) {
  expect_left_matrices<2, RowsKMajor<2>, false>();
  expect_left_matrices<2, PairKMajor<2>, false>();
  expect_left_matrices<4, RowsKMajor<4>, false>();
  expect_left_matrices<4, PairKMajor<4>, false>();
}

TEST(Sm80KMajorOperands, GiveEveryLaneItsColumns) {
  expect_right_matrices<2, WideKMajor<2>, false>();
  expect_right_matrices<2, PairKMajor<2>, false>();
  expect_right_matrices<4, WideKMajor<4>, false>();
  expect_right_matrices<4, PairKMajor<4>, false>();
}

TEST(Sm80MnMajorOperands, GiveEveryLaneItsRowsTransposed) {
  expect_left_matrices<2, RowsMnMajor<2>, true>();
  expect_left_matrices<2, PairMnMajor<2>, true>();
}

TEST(Sm80MnMajorOperands, GiveEveryLaneItsColumnsTransposed) {
  expect_right_matrices<2, WideMnMajor<2>, true>();
  expect_right_matrices<2, PairMnMajor<2>, true>();
}

// 32 bits, word by word: registers at (outer, outer + 8) x (k, k + 4).
template <class Lies, class Offset>
void expect_words(const Offset& offset_of_thread, int warp, int outer, int k) {
  const auto slice = filled(Lies{});
  for (int eight = 0; eight < 2; ++eight) {
    for (int four = 0; four < 2; ++four) {
      const auto offset_of = [&](int lane) {
        const int offset = offset_of_thread(warp * 32 + lane);
        return (eight ? Lies::eight_further(offset) : offset) + four * Lies::kFourSteps;
      };
      expect_no_conflict(offset_of, 32, 4);
      for (int lane = 0; lane < 32; ++lane) {
        ASSERT_EQ(slice.at(offset_of(lane)),
                  (Element{outer + 8 * eight + lane / 4, k + 4 * four + lane % 4}));
      }
    }
  }
}

template <class Rows, class Columns>
void expect_words_of_all_lanes() {
  static_assert(kThreads<Rows> == kThreads<Columns>);
  for (int warp = 0; warp < kThreads<Rows> / 32; ++warp) {
    const Place place = Place::of<kThreads<Rows>>(warp * 32);
    for (int step = 0; step < kSteps; ++step) {
      for (int i = 0; i < 4; ++i) {
        const auto left = [&](int thread) {
          return Rows::left(Rows::left_lane(Place::of<kThreads<Rows>>(thread)), step, i);
        };
        expect_words<Rows>(left, warp, place.row_block(i), step * 8);
        const auto right = [&](int thread) {
          return Columns::right(Columns::right_lane(Place::of<kThreads<Rows>>(thread)), step, i);
        };
        expect_words<Columns>(right, warp, place.column_warp * kWarpColumns + i * 16, step * 8);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(Sm80MnMajorOperands, GiveEveryLaneItsWordsOf32Bits) {
  expect_words_of_all_lanes<RowsMnMajor<4>, WideMnMajor<4>>();
  expect_words_of_all_lanes<PairMnMajor<4>, PairMnMajor<4>>();
}

// Eight lanes write 128 bytes at once.
template <class Lies>
void expect_copies_without_conflict() {
  for (int warp = 0; warp < kThreads<Lies> / 32; ++warp) {
    expect_no_conflict([&](int lane) { return Lies::copy_target(warp * 32 + lane); }, 8, 16);
  }
}

TEST(Sm80Copies, NeverMeetInABank) {
  expect_copies_without_conflict<WideKMajor<2>>();
  expect_copies_without_conflict<PairKMajor<2>>();
  expect_copies_without_conflict<RowsMnMajor<2>>();
  expect_copies_without_conflict<WideMnMajor<2>>();
  expect_copies_without_conflict<PairMnMajor<2>>();
  expect_copies_without_conflict<RowsMnMajor<4>>();
  expect_copies_without_conflict<WideMnMajor<4>>();
  expect_copies_without_conflict<PairMnMajor<4>>();
}

template <class Policy>
void expect_even_shares() {
  std::set<int> rows, columns;
  for (int warp = 0; warp < Policy::kThreads / 32; ++warp) {
    const Place place = Place::of<Policy::kThreads>(warp * 32);
    for (int f = 0; f < kTileRows / kRowStep; ++f) rows.insert(place.row_block(f));
    columns.insert(place.column_warp);
    EXPECT_LT(place.row_block(0), kRowStep);  // a tile of 32 rows: a block for each
  }
  EXPECT_EQ(rows, (std::set<int>{0, 16, 32, 48, 64, 80, 96, 112}));
  EXPECT_EQ(*columns.begin(), 0);
  EXPECT_EQ(*columns.rbegin(), Policy::kTileColumns / kWarpColumns - 1);
}

TEST(Sm80Warps, CoverTheTileAndShareShortOnesEvenly) {
  expect_even_shares<Wide>();
  expect_even_shares<Pair>();
}

}  // namespace
}  // namespace gg::cuda::sm80
