// The plain values of the API: element types, tensor views, group sizes.
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/types.h"
#include "grouped_gemm/version.h"
#include "support/run.h"

namespace gg {
namespace {

using test::refuses;

TEST(DTypes, HaveTheSizesOfTheirFormats) {
  EXPECT_EQ(size_of(DType::kFloat8E4M3), 1);
  EXPECT_EQ(size_of(DType::kFloat8E5M2), 1);
  EXPECT_EQ(size_of(DType::kFloat16), 2);
  EXPECT_EQ(size_of(DType::kBFloat16), 2);
  EXPECT_EQ(size_of(DType::kFloat32), 4);
  EXPECT_EQ(size_of(DType::kInt32), 4);
  EXPECT_EQ(size_of(DType::kFloat64), 8);
  EXPECT_EQ(size_of(DType::kInt64), 8);
}

TEST(DTypes, AreNamedAsTorchNamesThem) {
  EXPECT_STREQ(to_string(DType::kFloat32), "float32");
  EXPECT_STREQ(to_string(DType::kBFloat16), "bfloat16");
  EXPECT_STREQ(to_string(DType::kFloat8E4M3), "float8_e4m3fn");
  EXPECT_STREQ(to_string(DType::kFloat8E5M2), "float8_e5m2");
  EXPECT_STREQ(to_string(DType::kInt64), "int64");
}

TEST(Views, AreRowMajorWithoutGapsWhereNoStridesAreGiven) {
  float data[24] = {};
  const TensorView tensor = view(data, DType::kFloat32, {2, 3, 4});
  EXPECT_EQ(tensor.data, data);
  EXPECT_EQ(tensor.rank, 3);
  EXPECT_EQ(tensor.strides, (std::array<int64_t, 3>{12, 4, 1}));
  EXPECT_EQ(tensor.num_elements(), 24);
  EXPECT_TRUE(tensor.is_contiguous());
}

TEST(Views, KeepTheStridesTheyAreGiven) {
  const TensorView tensor = view(nullptr, DType::kInt64, {5, 7}, {100, 3});
  EXPECT_EQ(tensor.stride(0), 100);
  EXPECT_EQ(tensor.stride(1), 3);
  EXPECT_EQ(tensor.num_elements(), 35);
  EXPECT_FALSE(tensor.is_contiguous());
}

TEST(Views, CountElementsBeyond32Bits) {
  EXPECT_EQ(view(nullptr, DType::kBFloat16, {1 << 20, 1 << 20}).num_elements(), int64_t{1} << 40);
}

TEST(Views, AreContiguousWhateverTheStrideOfADimensionOfOne) {
  EXPECT_TRUE(view(nullptr, DType::kFloat32, {1, 8}, {999, 1}).is_contiguous());
  EXPECT_TRUE(view(nullptr, DType::kFloat32, {8, 1}, {1, 999}).is_contiguous());
}

TEST(Views, AreContiguousWhereTheyAreEmpty) {
  EXPECT_TRUE(view(nullptr, DType::kFloat32, {0, 8}, {3, 3}).is_contiguous());
  EXPECT_EQ(view(nullptr, DType::kFloat32, {0, 8}).num_elements(), 0);
}

TEST(Views, AreUndefinedUntilTheyAreMade) {
  EXPECT_FALSE(TensorView{}.defined());
  EXPECT_TRUE(view(nullptr, DType::kFloat32, {0}).defined());
}

TEST(Views, OfMoreThanThreeDimensionsAreRefused) {
  EXPECT_TRUE(refuses([] { view(nullptr, DType::kFloat32, {1, 2, 3, 4}); },
                      {"view: sizes got 4 dimensions", "at most 3"}));
}

TEST(Views, WithAStrideMissingAreRefused) {
  EXPECT_TRUE(refuses([] { view(nullptr, DType::kFloat32, {2, 3}, {1}); },
                      {"view: strides got 1", "2 sizes"}));
}

TEST(Transposed, SwapsTheLastTwoDimensionsAndMovesNothing) {
  float data[24] = {};
  const TensorView tensor = transposed(view(data, DType::kFloat32, {2, 3, 4}));
  EXPECT_EQ(tensor.data, data);
  EXPECT_EQ(tensor.sizes, (std::array<int64_t, 3>{2, 4, 3}));
  EXPECT_EQ(tensor.strides, (std::array<int64_t, 3>{12, 1, 4}));
  EXPECT_FALSE(tensor.is_contiguous());
}

TEST(Transposed, TwiceIsTheSameTensor) {
  const TensorView matrix = view(nullptr, DType::kFloat16, {5, 9}, {20, 2});
  const TensorView back = transposed(transposed(matrix));
  EXPECT_EQ(back.sizes, matrix.sizes);
  EXPECT_EQ(back.strides, matrix.strides);
}

TEST(ShapeStrings, ReadAsPythonPrintsThem) {
  EXPECT_EQ(shape_string(view(nullptr, DType::kFloat32, {4, 128})), "[4, 128]");
  EXPECT_EQ(shape_string(view(nullptr, DType::kFloat32, {7})), "[7]");
  EXPECT_EQ(shape_string(TensorView{}), "[]");
}

TEST(GroupSizesValues, SayWhereTheyLieAndWhatTheyMean) {
  const int32_t sizes[] = {3, 0, 5};
  const GroupSizes on_host = GroupSizes::on_host_sizes(sizes, DType::kInt32, 3);
  EXPECT_EQ(on_host.data, sizes);
  EXPECT_EQ(on_host.num_groups, 3);
  EXPECT_TRUE(on_host.on_host);
  EXPECT_FALSE(on_host.cumulative);
  EXPECT_TRUE(GroupSizes::on_host_offsets(sizes, DType::kInt32, 3).cumulative);
  EXPECT_FALSE(GroupSizes::on_device_sizes(sizes, DType::kInt32, 3).on_host);
  const GroupSizes ends = GroupSizes::on_device_offsets(sizes, DType::kInt64, 3);
  EXPECT_FALSE(ends.on_host);
  EXPECT_TRUE(ends.cumulative);
  EXPECT_EQ(ends.dtype, DType::kInt64);
}

TEST(Version, IsTheHeadersVersion) {
  const std::string expected = std::to_string(GROUPED_GEMM_VERSION_MAJOR) + "." +
                               std::to_string(GROUPED_GEMM_VERSION_MINOR) + "." +
                               std::to_string(GROUPED_GEMM_VERSION_PATCH);
  EXPECT_EQ(version(), expected);
  EXPECT_GE(GROUPED_GEMM_VERSION, 20000) << "above both of the packages it replaces";
}

}  // namespace
}  // namespace gg
