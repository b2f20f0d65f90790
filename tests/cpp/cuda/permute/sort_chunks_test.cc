// sort_chunks on a GPU: the bytes of the CPU.
#include <gtest/gtest.h>

#include "cuda/support/device.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {
namespace {

class CudaSortChunks : public OnDevice {};

void expect_like_the_cpu(int64_t num_chunks, int64_t hidden, DType dtype, int64_t spare_rows) {
  Random random(50);
  std::vector<int64_t> sizes(static_cast<size_t>(num_chunks)), names(sizes.size());
  int64_t num_rows = spare_rows;
  for (int64_t& size : sizes) num_rows += size = random.below(9);
  for (int64_t& name : names) name = random.below(num_chunks);  // some twice, some not at all
  Tensor input(dtype, {num_rows, hidden}), split_sizes(DType::kInt32, {num_chunks}),
      sorted_index(DType::kInt64, {num_chunks}), output(dtype, {num_rows, hidden}),
      map(DType::kInt32, {1, num_rows}), probs(DType::kBFloat16, {num_rows}),
      permuted_probs(DType::kBFloat16, {num_rows});
  fill_random(input, 51, -4, 4);
  fill_random(probs, 52, 0, 1);
  split_sizes.fill_integers(sizes);
  sorted_index.fill_integers(names);
  DeviceTensor input_there(input), sizes_there(split_sizes), index_there(sorted_index),
      output_there(output), map_there(map), probs_there(probs),
      permuted_probs_there(permuted_probs);
  run_on_device(SortChunksProblem{.input = input_there.view(),
                                  .split_sizes = sizes_there.view(),
                                  .sorted_index = index_there.view(),
                                  .output = output_there.view(),
                                  .row_id_map = map_there.view(),
                                  .probs = probs_there.view(),
                                  .permuted_probs = permuted_probs_there.view()});
  run_on_cpu(SortChunksProblem{.input = input.view(),
                               .split_sizes = split_sizes.view(),
                               .sorted_index = sorted_index.view(),
                               .output = output.view(),
                               .row_id_map = map.view(),
                               .probs = probs.view(),
                               .permuted_probs = permuted_probs.view()},
             Path::kReference);
  EXPECT_TRUE(same_bits(map_there.download(), map));
  EXPECT_TRUE(same_bits(output_there.download(), output));
  EXPECT_TRUE(same_bits(permuted_probs_there.download(), permuted_probs));
}

TEST_F(CudaSortChunks, MovesTheBytesOfTheCpu) {
  for (int64_t num_chunks : {0, 1, 7, 512, 513, 1500}) {
    for (int64_t spare_rows : {0, 5}) {
      SCOPED_TRACE(testing::Message() << num_chunks << " chunks, " << spare_rows << " rows more");
      expect_like_the_cpu(num_chunks, 5, DType::kBFloat16, spare_rows);
      expect_like_the_cpu(num_chunks, 64, DType::kFloat8E4M3, spare_rows);
    }
  }
}

TEST_F(CudaSortChunks, ClampsWhatTheDeviceHolds) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  const std::vector<int64_t> all_sizes[] = {
      {-5, kHuge, 3}, {kHuge, kHuge, kHuge}, {-1, -1, -1}, {20, 20, 20}};
  const std::vector<int64_t> all_names[] = {{2, 1, 0}, {-1, kHuge, 1}, {3, 3, 3}, {0, 0, 0}};
  for (const std::vector<int64_t>& sizes : all_sizes) {
    for (const std::vector<int64_t>& names : all_names) {
      Tensor input(DType::kFloat32, {21, 4}), split_sizes(DType::kInt64, {3}),
          sorted_index(DType::kInt64, {3}), map(DType::kInt32, {1, 21});
      fill_random(input, 53, 1, 2);
      split_sizes.fill_integers(sizes);
      sorted_index.fill_integers(names);
      DeviceTensor input_there(input), sizes_there(split_sizes), index_there(sorted_index),
          output_there(input.like()), map_there(map);
      run_on_device(SortChunksProblem{.input = input_there.view(),
                                      .split_sizes = sizes_there.view(),
                                      .sorted_index = index_there.view(),
                                      .output = output_there.view(),
                                      .row_id_map = map_there.view()});
      const Tensor& output = output_there.download();
      std::vector<double> wanted(21 * 4, 0.0);
      const std::vector<int64_t> rows = map_there.download().integers();
      for (size_t row = 0; row < rows.size(); ++row) {
        ASSERT_LT(rows[row], 21);
        for (size_t c = 0; c < 4 && rows[row] >= 0; ++c) {
          wanted[static_cast<size_t>(rows[row]) * 4 + c] =
              input.get(static_cast<int64_t>(row * 4 + c));
        }
      }
      EXPECT_EQ(output.values(), wanted);
    }
  }
}

}  // namespace
}  // namespace gg::test
