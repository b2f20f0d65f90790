// Non-owning views of the caller's memory: a strided tensor and group sizes.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "grouped_gemm/types.h"

namespace gg {

inline constexpr int kMaxRank = 3;

// A strided tensor of up to three dimensions; sizes and strides in elements.
struct TensorView {
  void* data = nullptr;  // inputs are only read, whatever the constness here
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::array<int64_t, kMaxRank> sizes{};
  std::array<int64_t, kMaxRank> strides{};

  bool defined() const { return rank > 0; }  // an optional argument may be left out
  int64_t size(int dim) const { return sizes[static_cast<size_t>(dim)]; }
  int64_t stride(int dim) const { return strides[static_cast<size_t>(dim)]; }
  int64_t num_elements() const;
  bool is_contiguous() const;
};

// Strides may be left out: then the tensor is row-major without gaps.
TensorView view(const void* data, DType dtype, std::initializer_list<int64_t> sizes,
                std::initializer_list<int64_t> strides = {});

// The last two dimensions swapped: [E,K,N] seen as [E,N,K]. No copy.
TensorView transposed(const TensorView& tensor);

std::string shape_string(const TensorView& tensor);  // "[4, 128]"

// How the rows of a tensor are cut into consecutive groups, one per expert.
// Either sizes (row counts) or offsets (cumulative ends, no leading 0), int32
// or int64, on the host or on the device. Values on the device are never
// read by the host: negative or too large ones are clamped there, so that no
// access leaves the operands.
struct GroupSizes {
  const void* data = nullptr;
  DType dtype = DType::kInt64;
  int64_t num_groups = 0;
  bool on_host = true;
  bool cumulative = false;

  static GroupSizes on_host_sizes(const void* sizes, DType dtype, int64_t num_groups);
  static GroupSizes on_device_sizes(const void* sizes, DType dtype, int64_t num_groups);
  static GroupSizes on_host_offsets(const void* ends, DType dtype, int64_t num_groups);
  static GroupSizes on_device_offsets(const void* ends, DType dtype, int64_t num_groups);
};

}  // namespace gg
