// Tensor -> view and back: the only place that knows both PyTorch's stable ABI
// and our plain values. Used by the other files of this folder.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "grouped_gemm/tensor_view.h"

namespace gg::torch_binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What a message asks for where the dtype is none that any operator takes.
inline constexpr const char* kNeedsFloat =
    "float32, float16, bfloat16 or, for the permutation, a float8";
inline constexpr const char* kNeedsInteger = "int32 or int64";

DType to_dtype(const char* op, const char* argument, ScalarType type,
               const char* needs = kNeedsFloat);
ScalarType to_scalar_type(DType dtype);

// A view of at most three dimensions; needs a strided CPU or CUDA tensor.
TensorView to_view(const char* op, const char* argument, const Tensor& tensor,
                   const char* needs = kNeedsFloat);

// A tensor over memory that outlives it.
Tensor borrow(const TensorView& view);

// An uninitialized contiguous tensor on like's device.
Tensor empty_like_device(const Tensor& like, std::vector<int64_t> sizes, DType dtype);

// Memory for a contiguous view that has none yet.
Tensor allocate(const Tensor& like, TensorView& view);

// A copy where `tensor` has gaps: the operators that need rows without gaps.
Tensor with_contiguous_rows(const Tensor& tensor);
Tensor contiguous(const Tensor& tensor);

// At most so many multiprocessors for grouped GEMM, 0 for all: a setting of the process.
int max_sms();
void set_max_sms(int count);

// Everything an operator needs to know about where it runs: the device of its
// main operand is current while this lives.
class Device {
 public:
  Device(const char* op, const char* argument, const Tensor& tensor);

  const Target& target() const { return target_; }
  Stream stream() const;
  // Names the argument that lies on another device than the main operand.
  void require_same(const char* argument, const Tensor& tensor) const;
  bool is_cuda() const { return target_.kind == Target::Kind::kCuda; }

 private:
  const char* op_;
  Target target_;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

// Scratch from PyTorch's allocator, alive as long as this: stream-ordered, so
// it may go as soon as the work is queued.
class ScratchMemory {
 public:
  ScratchMemory(const Tensor& like, int64_t bytes);
  Workspace workspace() const { return workspace_; }

 private:
  std::optional<Tensor> memory_;
  Workspace workspace_;
};

// PyTorch's own matrix product on the CPU, for gg::Stream::matmul.
void torch_matmul(const TensorView& a, const TensorView& b, const TensorView& out, bool accumulate);

}  // namespace gg::torch_binding
