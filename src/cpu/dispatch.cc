#include "cpu/dispatch.h"

namespace gg::cpu {

double load_float(const TensorView& tensor, int64_t index) {
  double value = 0;
  with_float_type(tensor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    value = convert<double>(convert<Accumulator<T>>(static_cast<const T*>(tensor.data)[index]));
  });
  return value;
}

void store_float(const TensorView& tensor, int64_t index, double value) {
  with_float_type(tensor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    static_cast<T*>(tensor.data)[index] = convert<T>(value);
  });
}

}  // namespace gg::cpu
