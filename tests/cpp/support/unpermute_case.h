// Operands of one unpermute and its backward, with what they should give: sums
// in float in k order, every product and sum rounded once.
#pragma once

#include <vector>

#include "grouped_gemm/unpermute.h"
#include "support/compare.h"
#include "support/shapes.h"

namespace gg::test {

// Row of each slot [topK, T] when T = num_rows tokens are routed as `shape` says.
inline std::vector<int64_t> random_map(const GroupShape& shape, int64_t topk, uint64_t seed) {
  const std::vector<int64_t> ids = random_ids(shape, topk, seed);
  std::vector<int64_t> next(shape.sizes.size(), 0);  // row of each expert's next slot
  for (size_t e = 1; e < next.size(); ++e) next[e] = next[e - 1] + shape.sizes[e - 1] * topk;
  std::vector<int64_t> map(ids.size());
  for (size_t slot = 0; slot < ids.size(); ++slot) {
    const size_t k = slot % static_cast<size_t>(topk);
    const size_t t = slot / static_cast<size_t>(topk);
    map[k * static_cast<size_t>(shape.num_rows()) + t] = next[static_cast<size_t>(ids[slot])]++;
  }
  return map;
}

struct UnpermuteCase {
  Tensor input;       // [N, h]
  Tensor row_id_map;  // [topK, T]
  Tensor probs;       // [T, topK]
  bool has_probs;
  Tensor output;    // [T, h]
  Tensor residual;  // [T, h]
  bool has_residual = false;

  UnpermuteCase(const GroupShape& shape, int64_t topk, int64_t hidden, DType dtype, bool weighted,
                DType prob_dtype = DType::kFloat32)
      : input(dtype, {shape.num_rows() * topk, hidden}),
        row_id_map(DType::kInt32, {topk, shape.num_rows()}),
        probs(prob_dtype, {shape.num_rows(), topk}),
        has_probs(weighted),
        output(dtype, {shape.num_rows(), hidden}),
        residual(dtype, {shape.num_rows(), hidden}) {
    fill_random(residual, 33, -2, 2);
    fill_random(input, 30, -2, 2);
    fill_random(probs, 31, 0, 1);
    row_id_map.fill_integers(random_map(shape, topk, 32));
  }

  UnpermuteProblem problem() const {
    return {.input = input.view(),
            .row_id_map = row_id_map.view(),
            .probs = has_probs ? probs.view() : TensorView{},
            .output = output.view(),
            .residual = has_residual ? residual.view() : TensorView{}};
  }

  Tensor expected() const {
    Tensor result = output.like();
    const int64_t hidden = output.size(1);
    const int64_t num_tokens = row_id_map.size(1);
    for (int64_t i = 0; i < output.num_elements(); ++i) {
      const int64_t t = i / hidden;
      float sum = 0;
      for (int64_t k = 0; k < row_id_map.size(0); ++k) {
        const int64_t row = row_id_map.get_integer(k * num_tokens + t);
        if (row < 0 || row >= input.size(0)) continue;
        const float value = static_cast<float>(input.get(row * hidden + i % hidden));
        const float prob =
            has_probs ? static_cast<float>(probs.get(t * row_id_map.size(0) + k)) : 1.0f;
        const float product = prob * value;
        sum += product;
      }
      if (has_residual) sum += static_cast<float>(residual.get(i));
      result.set(i, sum);
    }
    return result;
  }
};

struct UnpermuteBwdCase {
  Tensor output_grad;  // [T, h]
  Tensor input;        // [N, h]
  Tensor row_id_map;   // [topK, T]
  Tensor probs;        // [T, topK]
  bool has_probs;
  Tensor input_grad;  // [N, h]
  Tensor probs_grad;  // [T, topK]

  // `extra_rows`: rows of the forward's input that no slot names.
  UnpermuteBwdCase(const GroupShape& shape, int64_t topk, int64_t hidden, DType dtype,
                   bool weighted, int64_t extra_rows = 0)
      : output_grad(dtype, {shape.num_rows(), hidden}),
        input(dtype, {shape.num_rows() * topk + extra_rows, hidden}),
        row_id_map(DType::kInt32, {topk, shape.num_rows()}),
        probs(DType::kFloat32, {shape.num_rows(), topk}),
        has_probs(weighted),
        input_grad(dtype, {shape.num_rows() * topk + extra_rows, hidden}),
        probs_grad(DType::kFloat32, {shape.num_rows(), topk}) {
    fill_random(output_grad, 33);
    fill_random(input, 34);
    fill_random(probs, 35, 0, 1);
    row_id_map.fill_integers(random_map(shape, topk, 36));
  }

  UnpermuteBwdProblem problem() const {
    return {.output_grad = output_grad.view(),
            .input = input.view(),
            .row_id_map = row_id_map.view(),
            .probs = has_probs ? probs.view() : TensorView{},
            .input_grad = input_grad.view(),
            .probs_grad = probs_grad.view()};
  }

  // check(t, k, row) for every slot; row is -1 where the slot is dropped.
  template <typename Check>
  void for_each_slot(const Check& check) const {
    const int64_t num_tokens = row_id_map.size(1);
    for (int64_t entry = 0; entry < row_id_map.num_elements(); ++entry) {
      const int64_t row = row_id_map.get_integer(entry);
      check(entry % num_tokens, entry / num_tokens, row < input.size(0) && row >= 0 ? row : -1);
    }
  }

  // prob * gradient, gathered; zeros in rows that no slot names.
  Tensor expected_input_grad() const {
    Tensor result = input_grad.like();
    result.fill(std::vector<double>(static_cast<size_t>(result.num_elements()), 0.0));
    for_each_slot([&](int64_t t, int64_t k, int64_t row) {
      const int64_t hidden = input.size(1);
      const float prob =
          has_probs ? static_cast<float>(probs.get(t * row_id_map.size(0) + k)) : 1.0f;
      for (int64_t c = 0; row >= 0 && c < hidden; ++c) {
        result.set(row * hidden + c, prob * static_cast<float>(output_grad.get(t * hidden + c)));
      }
    });
    return result;
  }

  Expected expected_probs_grad() const {
    Expected result(probs_grad.num_elements());
    for_each_slot([&](int64_t t, int64_t k, int64_t row) {
      const int64_t hidden = input.size(1);
      double dot = 0;
      double magnitude = 0;
      for (int64_t c = 0; row >= 0 && c < hidden; ++c) {
        const double product = output_grad.get(t * hidden + c) * input.get(row * hidden + c);
        dot += product;
        magnitude += std::fabs(product);
      }
      const size_t slot = static_cast<size_t>(t * row_id_map.size(0) + k);
      result.values[slot] = dot;
      result.tolerances[slot] = 4 * 0x1p-23 * std::sqrt(static_cast<double>(hidden)) * magnitude;
    });
    return result;
  }
};

}  // namespace gg::test
