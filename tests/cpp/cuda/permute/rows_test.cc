// Rows of every length and address on a GPU: whole vectors, windows, blocks of
// threads that share rows, bursts of reads.
#include <gtest/gtest.h>

#include "cuda/support/permute.h"
#include "support/unpermute_case.h"

namespace gg::test {
namespace {

// Lengths around those at which rows are shared out differently, in elements.
constexpr int64_t kLengths[] = {1, 15, 16, 17, 31, 33, 127, 255, 256, 530, 1025, 4097, 7167, 8200};

class CudaRows : public OnDevice {};

TEST_F(CudaRows, OfEveryLengthArePermuted) {
  const std::vector<int64_t> ids = random_ids({"", {9, 0, 20, 5}}, 3, 40);
  for (int64_t length : kLengths) {
    for (DType dtype : {DType::kFloat8E4M3, DType::kBFloat16, DType::kFloat32}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << length);
      expect_right({ids, 3, length, dtype, 110, 4});
    }
  }
}

// More slots than a warp has lanes.
TEST_F(CudaRows, OfManySlotsArePermuted) {
  const std::vector<int64_t> ids = random_ids({"", {9, 0, 20, 5}}, 70, 43);
  for (int64_t length : {1, 31, 1025}) {
    expect_right({ids, 70, length, DType::kFloat8E4M3, 34 * 70 - 200, 4});
  }
}

// Copies of a matrix whose first element lies `offset` elements further on, and
// whose rows lie `gap` elements apart.
Tensor placed(const Tensor& source, int64_t offset, int64_t gap) {
  Tensor result(source.dtype(), {source.size(0), source.size(1)}, {source.size(1) + gap, 1},
                offset);
  for (int64_t i = 0; i < source.num_elements(); ++i) result.set(i, source.get(i));
  return result;
}

TEST_F(CudaRows, AtEveryAddressArePermuted) {
  const std::vector<int64_t> ids = random_ids({"", {9, 0, 20, 5}}, 3, 41);
  for (DType dtype : {DType::kFloat8E5M2, DType::kFloat16}) {
    for (int64_t length : {7, 16, 64, 131}) {
      for (int64_t offset : {1, 3, 7, 8}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << length << " + " << offset);
        PermuteCase permute(ids, 3, length, dtype);
        permute.input = placed(permute.input, offset, 0);
        expect_right(std::move(permute));
        permute = PermuteCase(ids, 3, length, dtype, 90, 4);
        permute.input = placed(permute.input, 0, offset);
        permute.output = Tensor(dtype, {90, length}, {}, 8 - offset);
        expect_right(std::move(permute));
      }
    }
  }
}

// Reads go ahead in bursts of 4 MB: some thousand rows of 4 KB, and a few left over.
TEST_F(CudaRows, OfSeveralBurstsArePermuted) {
  for (auto [num_tokens, hidden] : {std::pair{2600, 2048}, std::pair{100'003, 64}}) {
    const std::vector<int64_t> ids = random_ids({"", {num_tokens / 2, num_tokens / 2}}, 1, 42);
    expect_right({ids, 1, hidden, DType::kFloat8E4M3, -1, 2});
  }
}

void expect_right(UnpermuteCase&& unpermute) {
  DeviceTensor input(unpermute.input), map(unpermute.row_id_map), probs(unpermute.probs),
      output(unpermute.output), residual(unpermute.residual);
  run_on_device(
      UnpermuteProblem{.input = input.view(),
                       .row_id_map = map.view(),
                       .probs = unpermute.has_probs ? probs.view() : TensorView{},
                       .output = output.view(),
                       .residual = unpermute.has_residual ? residual.view() : TensorView{}});
  EXPECT_TRUE(same_bits(output.download(), unpermute.expected()));
}

TEST_F(CudaRows, OfEveryLengthAndTopKAreUnpermuted) {
  const GroupShape shape{"", {9, 0, 20, 5}};
  for (int64_t length : kLengths) {
    for (int64_t topk : {1, 2, 3, 4, 5, 8, 9, 17}) {
      SCOPED_TRACE(testing::Message() << length << ", topK " << topk);
      expect_right({shape, topk, length, DType::kBFloat16, true});
      expect_right({shape, topk, length, DType::kFloat8E4M3, topk % 2 == 0, DType::kFloat16});
    }
  }
}

TEST_F(CudaRows, AtEveryAddressAreUnpermuted) {
  for (DType dtype : {DType::kFloat8E5M2, DType::kFloat16}) {
    for (int64_t length : {7, 16, 64, 131}) {
      for (int64_t offset : {1, 3, 7, 8}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << length << " + " << offset);
        UnpermuteCase unpermute({"", {9, 0, 20, 5}}, 5, length, dtype, true, DType::kBFloat16);
        unpermute.input = placed(unpermute.input, offset, offset % 3);
        unpermute.output = Tensor(dtype, {34, length}, {}, 8 - offset);
        unpermute.residual = placed(unpermute.residual, offset / 2, offset % 2);
        unpermute.has_residual = length % 2 != 0;
        expect_right(std::move(unpermute));
      }
    }
  }
}

void expect_right(UnpermuteBwdCase&& backward, bool with_input_grad = true) {
  DeviceTensor grad(backward.output_grad), input(backward.input), map(backward.row_id_map),
      probs(backward.probs), input_grad(backward.input_grad), probs_grad(backward.probs_grad);
  run_on_device(
      UnpermuteBwdProblem{.output_grad = grad.view(),
                          .input = input.view(),
                          .row_id_map = map.view(),
                          .probs = backward.has_probs ? probs.view() : TensorView{},
                          .input_grad = with_input_grad ? input_grad.view() : TensorView{},
                          .probs_grad = probs_grad.view()});
  if (with_input_grad) {
    EXPECT_TRUE(same_bits(input_grad.download(), backward.expected_input_grad()));
  }
  EXPECT_TRUE(is_close(probs_grad.download(), backward.expected_probs_grad()));
}

TEST_F(CudaRows, OfEveryLengthAndTopKHaveTheirGradients) {
  const GroupShape shape{"", {9, 0, 20, 5}};
  for (int64_t length : kLengths) {
    for (int64_t topk : {1, 2, 3, 4, 5, 8, 9, 17}) {
      SCOPED_TRACE(testing::Message() << length << ", topK " << topk);
      expect_right(UnpermuteBwdCase(shape, topk, length, DType::kBFloat16, true, 3));
      expect_right(UnpermuteBwdCase(shape, topk, length, DType::kFloat32, topk % 2 == 0));
      expect_right(UnpermuteBwdCase(shape, topk, length, DType::kFloat8E5M2, true),
                   /*with_input_grad=*/false);
    }
  }
}

TEST_F(CudaRows, AtEveryAddressHaveTheirGradients) {
  for (DType dtype : {DType::kFloat8E4M3, DType::kFloat16}) {
    for (int64_t length : {7, 16, 64, 131}) {
      for (int64_t offset : {1, 3, 7, 8}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " x " << length << " + " << offset);
        UnpermuteBwdCase backward({"", {9, 0, 20, 5}}, 5, length, dtype, true, 40);
        backward.input = placed(backward.input, offset, offset % 3);
        backward.output_grad = placed(backward.output_grad, offset / 2, offset % 2);
        backward.input_grad = Tensor(dtype, {210, length}, {}, 8 - offset);
        expect_right(std::move(backward));
      }
    }
  }
}

// The gradient of rows that nobody names is zero: most of them, in no order.
TEST_F(CudaRows, ThatNoSlotNamesHaveNoGradient) {
  UnpermuteBwdCase backward({"", {30, 40}}, 4, 40, DType::kBFloat16, true, 5000);
  std::vector<int64_t> rows = backward.row_id_map.integers();
  for (size_t slot = 0; slot < rows.size(); ++slot) {
    rows[slot] = slot % 3 == 0 ? -1 : rows[slot] * 18 + 7;
  }
  backward.row_id_map.fill_integers(rows);
  expect_right(std::move(backward));
}

// Rows and gradients go ahead in bursts of 4 MB.
TEST_F(CudaRows, OfSeveralBurstsHaveTheirGradients) {
  for (int64_t topk : {2, 9}) {
    expect_right(UnpermuteBwdCase({"", {700, 1200 / topk}}, topk, 4096, DType::kFloat8E5M2, true));
  }
}

}  // namespace
}  // namespace gg::test
