// A tensor that owns its memory and tells on whoever misuses it. Its elements
// start poisoned; around them, and in the gaps between them, lie guard bytes
// that nobody may write and that spoil every sum they are read into.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "base/small_float.h"
#include "grouped_gemm/tensor_view.h"

namespace gg::test {

inline constexpr unsigned char kGuardByte = 0xFF;      // NaN in every floating-point format
inline constexpr unsigned char kIntegerPoison = 0x7B;  // 0xFF would read as -1, a real map entry
inline constexpr int64_t kGuardBytes = 256;            // a multiple of every alignment we need

inline bool is_integer(DType dtype) {
  return dtype == DType::kInt32 || dtype == DType::kInt64 || dtype == DType::kBool;
}

template <typename T>
T load_as(const unsigned char* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}

inline double load_number(DType dtype, const unsigned char* address) {
  switch (dtype) {
    case DType::kFloat32: return load_as<float>(address);
    case DType::kFloat64: return load_as<double>(address);
    case DType::kFloat16: return static_cast<float>(load_as<base::Half>(address));
    case DType::kBFloat16: return static_cast<float>(load_as<base::BFloat16>(address));
    case DType::kFloat8E4M3: return static_cast<float>(load_as<base::Float8E4M3>(address));
    case DType::kFloat8E5M2: return static_cast<float>(load_as<base::Float8E5M2>(address));
    case DType::kInt32: return load_as<int32_t>(address);
    case DType::kInt64: return static_cast<double>(load_as<int64_t>(address));
    case DType::kBool: return load_as<uint8_t>(address);
  }
  return 0;
}

template <typename T>
void store_as(unsigned char* address, T value) {
  std::memcpy(address, &value, sizeof(T));
}

inline void store_number(DType dtype, unsigned char* address, double value) {
  const float single = static_cast<float>(value);
  switch (dtype) {
    case DType::kFloat32: return store_as(address, single);
    case DType::kFloat64: return store_as(address, value);
    case DType::kFloat16: return store_as(address, base::Half(single));
    case DType::kBFloat16: return store_as(address, base::BFloat16(single));
    case DType::kFloat8E4M3: return store_as(address, base::Float8E4M3(single));
    case DType::kFloat8E5M2: return store_as(address, base::Float8E5M2(single));
    case DType::kInt32: return store_as(address, static_cast<int32_t>(value));
    case DType::kInt64: return store_as(address, static_cast<int64_t>(value));
    case DType::kBool: return store_as(address, static_cast<uint8_t>(value));
  }
}

// Elements are named by their row-major number, whatever the strides.
class Tensor {
 public:
  // `offset` moves the first element that many elements past a 256-byte boundary.
  explicit Tensor(DType dtype, std::vector<int64_t> sizes, std::vector<int64_t> strides = {},
                  int64_t offset = 0) {
    const std::initializer_list<int64_t> shape[] = {{}, {0}, {0, 0}, {0, 0, 0}};
    view_ = gg::view(nullptr, dtype, shape[sizes.size()]);
    int64_t dense = 1;
    int64_t last = 0;
    for (size_t d = sizes.size(); d-- > 0;) {
      view_.sizes[d] = sizes[d];
      view_.strides[d] = strides.empty() ? dense : strides[d];
      dense *= sizes[d];
      last += (sizes[d] - 1) * view_.strides[d];
    }
    const int64_t span = num_elements() == 0 ? 0 : (last + 1) * element_bytes();
    first_byte_ = kGuardBytes + offset * element_bytes();
    num_bytes_ = first_byte_ + span + kGuardBytes;
    storage_.assign(static_cast<size_t>(num_bytes_ + kGuardBytes), kGuardByte);
    const uintptr_t address = reinterpret_cast<uintptr_t>(storage_.data());
    memory_ = storage_.data() + (kGuardBytes - address % kGuardBytes) % kGuardBytes;
    view_.data = memory_ + first_byte_;
    poison();
  }
  Tensor(Tensor&&) = default;  // moving keeps the memory where it is
  Tensor& operator=(Tensor&&) = default;

  // Another, poisoned, of the same shape and layout.
  Tensor like() const {
    return Tensor(dtype(), {view_.sizes.begin(), view_.sizes.begin() + view_.rank},
                  {view_.strides.begin(), view_.strides.begin() + view_.rank},
                  (first_byte_ - kGuardBytes) / element_bytes());
  }

  TensorView view() const { return view_; }
  DType dtype() const { return view_.dtype; }
  int64_t size(int dim) const { return view_.size(dim); }
  int64_t num_elements() const { return view_.num_elements(); }
  int64_t element_bytes() const { return size_of(view_.dtype); }

  // The memory with its guards: what a copy on a device needs.
  unsigned char* memory() const { return memory_; }
  int64_t num_bytes() const { return num_bytes_; }
  TensorView view_at(unsigned char* memory) const {
    TensorView moved = view_;
    moved.data = memory + first_byte_;
    return moved;
  }

  double get(int64_t i) const { return load_number(dtype(), address(i)); }
  void set(int64_t i, double value) { store_number(dtype(), address(i), value); }
  int64_t get_integer(int64_t i) const {
    return dtype() == DType::kInt32 ? load_as<int32_t>(address(i)) : load_as<int64_t>(address(i));
  }
  void set_integer(int64_t i, int64_t value) {
    dtype() == DType::kInt32 ? store_as(address(i), static_cast<int32_t>(value))
                             : store_as(address(i), value);
  }

  std::vector<double> values() const {
    std::vector<double> all;
    for (int64_t i = 0; i < num_elements(); ++i) all.push_back(get(i));
    return all;
  }
  std::vector<int64_t> integers() const {
    std::vector<int64_t> all;
    for (int64_t i = 0; i < num_elements(); ++i) all.push_back(get_integer(i));
    return all;
  }
  std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> all;
    for (int64_t i = 0; i < num_elements(); ++i) {
      all.insert(all.end(), address(i), address(i) + element_bytes());
    }
    return all;
  }
  Tensor& fill(const std::vector<double>& values) {
    for (int64_t i = 0; i < num_elements(); ++i) set(i, values.at(static_cast<size_t>(i)));
    return *this;
  }
  Tensor& fill_integers(const std::vector<int64_t>& values) {
    for (int64_t i = 0; i < num_elements(); ++i) set_integer(i, values.at(static_cast<size_t>(i)));
    return *this;
  }
  void poison() {
    const int byte = is_integer(dtype()) ? kIntegerPoison : kGuardByte;
    for (int64_t i = 0; i < num_elements(); ++i) {
      std::memset(address(i), byte, static_cast<size_t>(element_bytes()));
    }
  }

  testing::AssertionResult guards_intact() const {
    std::vector<bool> is_element(static_cast<size_t>(num_bytes_), false);
    for (int64_t i = 0; i < num_elements(); ++i) {
      const auto begin = is_element.begin() + (address(i) - memory_);
      std::fill(begin, begin + element_bytes(), true);
    }
    for (int64_t byte = 0; byte < num_bytes_; ++byte) {
      if (is_element[static_cast<size_t>(byte)] || memory_[byte] == kGuardByte) continue;
      return testing::AssertionFailure()
             << "a guard byte was written, " << byte - first_byte_ << " bytes from the first of "
             << num_elements() << " elements of " << to_string(dtype());
    }
    return testing::AssertionSuccess();
  }

 private:
  unsigned char* address(int64_t i) const {
    int64_t element = 0;
    for (int d = view_.rank - 1; d >= 0; --d) {
      element += i % view_.size(d) * view_.stride(d);
      i /= view_.size(d);
    }
    return memory_ + first_byte_ + element * element_bytes();
  }

  TensorView view_;
  int64_t first_byte_ = 0;
  int64_t num_bytes_ = 0;
  std::vector<unsigned char> storage_;
  unsigned char* memory_ = nullptr;  // storage_ from a 256-byte boundary on
};

}  // namespace gg::test
