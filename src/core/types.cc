// Names and sizes of the plain values in types.h and tensor_view.h.
#include "grouped_gemm/types.h"

#include "base/check.h"
#include "grouped_gemm/tensor_view.h"
#include "grouped_gemm/version.h"

namespace gg {

int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2:
    case DType::kBool: return 1;
    case DType::kFloat16:
    case DType::kBFloat16: return 2;
    case DType::kFloat32:
    case DType::kInt32: return 4;
    case DType::kFloat64:
    case DType::kInt64: return 8;
  }
  return 0;
}

const char* to_string(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat8E4M3: return "float8_e4m3fn";
    case DType::kFloat8E5M2: return "float8_e5m2";
    case DType::kFloat64: return "float64";
    case DType::kInt32: return "int32";
    case DType::kInt64: return "int64";
    case DType::kBool: return "bool";
  }
  return "unknown";
}

const char* to_string(Path path) {
  switch (path) {
    case Path::kAuto: return "auto";
    case Path::kReference: return "reference";
    case Path::kParallel: return "parallel";
    case Path::kPortable: return "portable";
    case Path::kSimt: return "simt";
    case Path::kSm80: return "sm80";
    case Path::kSm70: return "sm70";
    case Path::kSm75: return "sm75";
    case Path::kSm90: return "sm90";
  }
  return "unknown";
}

#define GG_STRINGIZE_(x) #x
#define GG_STRINGIZE(x) GG_STRINGIZE_(x)
const char* version() {
  return GG_STRINGIZE(GROUPED_GEMM_VERSION_MAJOR) "." GG_STRINGIZE(
      GROUPED_GEMM_VERSION_MINOR) "." GG_STRINGIZE(GROUPED_GEMM_VERSION_PATCH);
}

int64_t TensorView::num_elements() const {
  int64_t count = 1;
  for (int d = 0; d < rank; ++d) count *= size(d);
  return count;
}

bool TensorView::is_contiguous() const {
  if (num_elements() == 0) return true;
  int64_t expected = 1;
  for (int d = rank - 1; d >= 0; --d) {
    if (size(d) != 1 && stride(d) != expected) return false;
    expected *= size(d);
  }
  return true;
}

TensorView view(const void* data, DType dtype, std::initializer_list<int64_t> sizes,
                std::initializer_list<int64_t> strides) {
  GG_REQUIRE(sizes.size() <= kMaxRank, "view: sizes got ", sizes.size(),
             " dimensions; needs at most ", kMaxRank);
  GG_REQUIRE(strides.size() == 0 || strides.size() == sizes.size(), "view: strides got ",
             strides.size(), " entries; needs none or one for each of ", sizes.size(), " sizes");
  for (int64_t size : sizes) {
    GG_REQUIRE(size >= 0, "view: sizes got ", size, "; needs 0 or more");
  }
  TensorView result;
  result.data = const_cast<void*>(data);
  result.dtype = dtype;
  result.rank = static_cast<int>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), result.sizes.begin());
  std::copy(strides.begin(), strides.end(), result.strides.begin());
  if (strides.size() == 0) {
    int64_t stride = 1;
    for (size_t d = sizes.size(); d-- > 0;) {
      result.strides[d] = stride;
      stride *= result.sizes[d];
    }
  }
  return result;
}

TensorView transposed(const TensorView& tensor) {
  GG_REQUIRE(tensor.rank >= 2, "transposed: tensor got ", tensor.rank,
             " dimensions; needs 2 or more");
  TensorView result = tensor;
  const size_t last = static_cast<size_t>(tensor.rank) - 1;
  std::swap(result.sizes[last - 1], result.sizes[last]);
  std::swap(result.strides[last - 1], result.strides[last]);
  return result;
}

std::string shape_string(const TensorView& tensor) {
  std::string text = "[";
  for (int d = 0; d < tensor.rank; ++d) {
    if (d > 0) text += ", ";
    text += std::to_string(tensor.size(d));
  }
  return text + "]";
}

GroupSizes GroupSizes::on_host_sizes(const void* sizes, DType dtype, int64_t num_groups) {
  return {sizes, dtype, num_groups, true, false};
}
GroupSizes GroupSizes::on_device_sizes(const void* sizes, DType dtype, int64_t num_groups) {
  return {sizes, dtype, num_groups, false, false};
}
GroupSizes GroupSizes::on_host_offsets(const void* ends, DType dtype, int64_t num_groups) {
  return {ends, dtype, num_groups, true, true};
}
GroupSizes GroupSizes::on_device_offsets(const void* ends, DType dtype, int64_t num_groups) {
  return {ends, dtype, num_groups, false, true};
}

}  // namespace gg
