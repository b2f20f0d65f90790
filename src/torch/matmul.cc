// PyTorch's matrix product behind gg::Stream::matmul, reached through the
// dispatcher, so that nothing links a BLAS. The core's loop over groups
// (src/cpu/gmm.cc) calls it once for each group.
#include <array>

#include <torch/csrc/stable/ops.h>

#include "base/check.h"
#include "torch/convert.h"

namespace gg::torch_binding {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

// aten::mm.out; a, b and out of one dtype.
void mm_out(const Tensor& a, const Tensor& b, const Tensor& out) {
  std::array<StableIValue, 3> stack{from(a), from(b), from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]);  // takes the returned reference
}

Tensor cast(const Tensor& tensor, DType dtype) {
  return torch::stable::to(tensor, to_scalar_type(dtype));
}

template <typename T>
void add_matrix(const TensorView& addend, const TensorView& out) {
  const T* source = static_cast<const T*>(addend.data);
  T* target = static_cast<T*>(out.data);
  for (int64_t i = 0; i < out.size(0); ++i) {
    for (int64_t j = 0; j < out.size(1); ++j) {
      target[i * out.stride(0) + j * out.stride(1)] +=
          source[i * addend.stride(0) + j * addend.stride(1)];
    }
  }
}

}  // namespace

void torch_matmul(const TensorView& a, const TensorView& b, const TensorView& out,
                  bool accumulate) {
  // fp16 products are fifty times slower than fp32 ones on the CPU, and no
  // product there has another dtype than its operands.
  const bool through_fp32 = a.dtype == DType::kFloat16 ||
                            (a.dtype != DType::kFloat64 && out.dtype != a.dtype) ||
                            (accumulate && a.dtype == DType::kBFloat16);
  const DType product_dtype = through_fp32 ? DType::kFloat32 : a.dtype;
  const Tensor target = borrow(out);
  const Tensor left = through_fp32 ? cast(borrow(a), product_dtype) : borrow(a);
  const Tensor right = through_fp32 ? cast(borrow(b), product_dtype) : borrow(b);
  if (!accumulate && product_dtype == out.dtype) return mm_out(left, right, target);

  Tensor product = empty_like_device(target, {out.size(0), out.size(1)}, product_dtype);
  mm_out(left, right, product);
  const TensorView product_view = to_view("gmm", "product", product);
  if (!accumulate) {
    torch::stable::copy_(const_cast<Tensor&>(target), product);
  } else if (out.dtype == DType::kFloat64) {
    add_matrix<double>(product_view, out);
  } else if (out.dtype == DType::kFloat32) {
    add_matrix<float>(product_view, out);
  } else {  // one rounding: old values to fp32, add, back
    Tensor sum = torch::stable::clone(cast(target, DType::kFloat32));
    add_matrix<float>(product_view, to_view("gmm", "sum", sum));
    torch::stable::copy_(const_cast<Tensor&>(target), sum);
  }
}

}  // namespace gg::torch_binding
