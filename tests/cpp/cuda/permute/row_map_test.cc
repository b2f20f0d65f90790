// The row map on a GPU, around every number at which it is sorted differently.
#include <gtest/gtest.h>

#include <limits>

#include "cuda/support/permute.h"

namespace gg::test {
namespace {

// Ids in [-1, num_ids), every second of them twice as often as the others.
std::vector<int64_t> ids_below(int64_t num_ids, int64_t num_slots, uint64_t seed) {
  Random random(seed);
  std::vector<int64_t> ids(static_cast<size_t>(num_slots));
  for (int64_t& id : ids) {
    id = random.below(num_ids + 1) - 1;
    if (id % 2 != 0 && random.below(2) == 0 && id > 0) --id;
  }
  return ids;
}

// Rows have no elements: the map is all there is.
PermuteCase map_of(const std::vector<int64_t>& ids, int64_t topk, int64_t num_experts,
                   int64_t num_out = -1, DType id_dtype = DType::kInt64) {
  return {ids, topk, 0, DType::kBFloat16, num_out, num_experts, id_dtype};
}

class CudaRowMap : public OnDevice {};

TEST_F(CudaRowMap, IsRightForAnyNumberOfExperts) {
  for (int64_t experts :
       {1,   2,   7,   8,   9,   15,   16,   17,   64,   127,  128,  129,  255,
        256, 257, 511, 512, 513, 1023, 1024, 1025, 2048, 4095, 4096, 4097, 10000}) {
    for (int64_t num_slots : {3000, 6000}) {  // one block, several
      SCOPED_TRACE(testing::Message() << experts << " experts, " << num_slots << " slots");
      const std::vector<int64_t> ids = ids_below(experts, num_slots, 1);
      expect_right(map_of(ids, 2, experts));
      expect_right(map_of(ids, 2, 0));
    }
  }
}

TEST_F(CudaRowMap, IsRightForAnyNumberOfSlots) {
  constexpr int64_t kBlock = 128 * 512;
  for (int64_t slots : {0, 1, 31, 32, 33, 1023, 1024, 1025, 4095, 4096, 4097, 8193}) {
    SCOPED_TRACE(slots);
    const std::vector<int64_t> ids = ids_below(60, slots, 2);
    expect_right(map_of(ids, 1, 60));
    expect_right(map_of(ids, 1, 0, -1, DType::kInt32));
  }
  for (int64_t items : {2, 4, 8, 16, 32}) {  // slots of a thread: more from the next slot on
    for (int64_t slots : {kBlock * items, kBlock * items + 8}) {
      SCOPED_TRACE(slots);
      const std::vector<int64_t> ids = ids_below(100, slots, 3);
      expect_right(map_of(ids, 8, 100), /*with_inverse=*/items % 4 == 0);
    }
  }
}

TEST_F(CudaRowMap, IsRightForAnyTopKOfManySlots) {
  constexpr int64_t kTokens = 600'000;
  for (int64_t topk : {1, 2, 3, 5, 8, 15, 16, 17, 129}) {
    SCOPED_TRACE(topk);
    const std::vector<int64_t> ids = ids_below(37, kTokens / topk * topk, 4);
    expect_right(map_of(ids, topk, 37));
    expect_right(map_of(ids, topk, 0, kTokens / 2), /*with_inverse=*/false);
  }
}

TEST_F(CudaRowMap, IsRightWhenIdsBecomeLargeInOneRangeOnly) {
  for (int64_t large : {511, 512, 4095, 4096}) {
    SCOPED_TRACE(large);
    std::vector<int64_t> ids = ids_below(12, 100'000, 5);
    ids[70'001] = large;
    ids[70'003] = std::numeric_limits<int64_t>::max();  // a sentinel for drops
    ids[90'000] = large == 4096 ? 4096 : std::numeric_limits<int64_t>::max();
    expect_right(map_of(ids, 8, 0));
  }
}

TEST_F(CudaRowMap, DropsEverySlotOrNone) {
  for (int64_t num_slots : {100, 20'000}) {
    const std::vector<int64_t> none(static_cast<size_t>(num_slots), -1);
    const std::vector<int64_t> last(static_cast<size_t>(num_slots), 63);
    for (int64_t experts : {0, 64}) {
      expect_right(map_of(none, 2, experts));
      expect_right(map_of(last, 2, experts));
      expect_right(map_of(last, 2, experts, num_slots / 3));
      expect_right(map_of(last, 2, experts, num_slots * 2));
    }
  }
}

}  // namespace
}  // namespace gg::test
