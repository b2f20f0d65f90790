#include "torch/convert.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>

#include "base/check.h"

// Declared here because a CPU-only PyTorch's headers leave it out; weak, so that
// the library loads where nothing defines it (a CPU-only PyTorch).
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace gg::torch_binding {
namespace {

void check_torch(AOTITorchError status, const char* what) {
  GG_REQUIRE(status == AOTI_TORCH_SUCCESS, "grouped_gemm: PyTorch failed to ", what);
}

void parallel_for(int64_t count, int64_t grain, ParallelBody body, void* context) {
  check_torch(torch_parallel_for(0, count, grain, body, context), "run a parallel loop");
}

}  // namespace

namespace {

// Python's names for the types that no operator takes.
const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Bool: return "bool";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return torch::headeronly::toString(type);
  }
}

}  // namespace

DType to_dtype(const char* op, const char* argument, ScalarType type, const char* needs) {
  switch (type) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Float8_e4m3fn: return DType::kFloat8E4M3;
    case ScalarType::Float8_e5m2: return DType::kFloat8E5M2;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::Int: return DType::kInt32;
    case ScalarType::Long: return DType::kInt64;
    default: break;
  }
  throw Error(base::concat(op, ": ", argument, " got dtype ", name_of(type), "; needs ", needs,
                           "; cast it"));
}

ScalarType to_scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return ScalarType::Float;
    case DType::kFloat16: return ScalarType::Half;
    case DType::kBFloat16: return ScalarType::BFloat16;
    case DType::kFloat8E4M3: return ScalarType::Float8_e4m3fn;
    case DType::kFloat8E5M2: return ScalarType::Float8_e5m2;
    case DType::kFloat64: return ScalarType::Double;
    case DType::kInt32: return ScalarType::Int;
    case DType::kInt64: return ScalarType::Long;
    case DType::kBool: return ScalarType::Bool;
  }
  return ScalarType::Undefined;
}

TensorView to_view(const char* op, const char* argument, const Tensor& tensor, const char* needs) {
  GG_REQUIRE(tensor.dim() <= kMaxRank, op, ": ", argument, " got ", tensor.dim(),
             " dimensions; needs at most ", kMaxRank);
  TensorView view;
  view.data = tensor.data_ptr();
  view.dtype = to_dtype(op, argument, tensor.scalar_type(), needs);
  view.rank = static_cast<int>(tensor.dim());
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  std::copy(sizes.begin(), sizes.end(), view.sizes.begin());
  std::copy(strides.begin(), strides.end(), view.strides.begin());
  return view;
}

Tensor borrow(const TensorView& view) {
  AtenTensorHandle handle;
  check_torch(aoti_torch_create_tensor_from_blob(
                  view.data, view.rank, view.sizes.data(), view.strides.data(), 0,
                  torch::stable::detail::to<int32_t>(
                      torch::stable::detail::from(to_scalar_type(view.dtype))),
                  aoti_torch_device_type_cpu(), 0, &handle),
              "make a tensor over borrowed memory");
  return Tensor(handle);
}

Tensor empty_like_device(const Tensor& like, std::vector<int64_t> sizes, DType dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) {
    strides[d - 1] = strides[d] * std::max<int64_t>(sizes[d], 1);
  }
  AtenTensorHandle handle;
  check_torch(
      aoti_torch_empty_strided(
          static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
          torch::stable::detail::to<int32_t>(torch::stable::detail::from(to_scalar_type(dtype))),
          like.is_cuda() ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu(),
          like.get_device_index(), &handle),
      base::concat("allocate a tensor of ", sizes.empty() ? 0 : sizes[0], " rows").c_str());
  return Tensor(handle);
}

Tensor allocate(const Tensor& like, TensorView& view) {
  const Tensor tensor =
      empty_like_device(like, {view.sizes.begin(), view.sizes.begin() + view.rank}, view.dtype);
  view.data = tensor.data_ptr();
  return tensor;
}

Tensor contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Tensor with_contiguous_rows(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool has_rows = last >= 0 && (tensor.size(last) <= 1 || tensor.stride(last) == 1);
  return has_rows ? tensor : torch::stable::contiguous(tensor);
}

namespace {
std::atomic<int> process_max_sms{0};
}  // namespace

int max_sms() { return process_max_sms.load(std::memory_order_relaxed); }
void set_max_sms(int count) { process_max_sms.store(count, std::memory_order_relaxed); }

Device::Device(const char* op, const char* argument, const Tensor& tensor) : op_(op) {
  if (tensor.is_cuda()) {
    guard_.emplace(tensor.get_device_index());
    target_ = Target::cuda(tensor.get_device_index());
    target_.max_sms = max_sms();
  } else {
    GG_REQUIRE(tensor.is_cpu(), op, ": ", argument,
               " got a tensor that lies neither on the CPU nor on a CUDA device; needs one of "
               "these; move it");
  }
}

Stream Device::stream() const {
  Stream stream;
  if (is_cuda()) {
    GG_REQUIRE(aoti_torch_get_current_cuda_stream != nullptr, op_,
               ": got a CUDA tensor from a PyTorch without CUDA; install a CUDA build of PyTorch");
    check_torch(aoti_torch_get_current_cuda_stream(target_.device_index, &stream.cuda),
                "give the current CUDA stream");
  } else {
    stream.parallel_for = parallel_for;
    stream.matmul = torch_matmul;
  }
  return stream;
}

void Device::require_same(const char* argument, const Tensor& tensor) const {
  const bool same = tensor.is_cuda() == is_cuda() &&
                    (!is_cuda() || tensor.get_device_index() == target_.device_index);
  const auto name = [](bool cuda, int index) {
    return cuda ? base::concat("cuda:", index) : std::string("cpu");
  };
  GG_REQUIRE(same, op_, ": ", argument, " got a tensor on ",
             name(tensor.is_cuda(), tensor.get_device_index()), "; needs the first operand's, ",
             name(is_cuda(), target_.device_index), "; move it");
}

ScratchMemory::ScratchMemory(const Tensor& like, int64_t bytes) {
  if (bytes == 0) return;
  memory_ = empty_like_device(like, {bytes / 4 + 1}, DType::kInt32);
  workspace_ = Workspace{memory_->data_ptr(), bytes};
}

}  // namespace gg::torch_binding
