#include "core/overlap.h"

#include <cstdint>

#include "base/check.h"

namespace gg::core {
namespace {

// Bytes from the first element to the end of the last along the dimensions that `counts` picks.
// Strides are >= 0.
template <typename Counts>
int64_t extent(const TensorView& tensor, const Counts& counts) {
  int64_t last = 0;
  for (int d = 0; d < tensor.rank; ++d) {
    if (counts(tensor.stride(d) * size_of(tensor.dtype))) {
      last += (tensor.size(d) - 1) * tensor.stride(d);
    }
  }
  return tensor.num_elements() == 0 ? 0 : (last + 1) * size_of(tensor.dtype);
}

int64_t whole_extent(const TensorView& tensor) {
  return extent(tensor, [](int64_t) { return true; });
}

// Whether the views lie in stripes of memory that come again every `period` bytes and do not meet:
// strides of whole periods change nothing, the others stay within a stripe.
bool in_other_stripes(const TensorView& left, const TensorView& right, int64_t distance,
                      int64_t period) {
  const auto within = [period](int64_t stride) { return stride % period != 0; };
  const int64_t begin = (distance % period + period) % period;
  return begin >= extent(left, within) && begin + extent(right, within) <= period;
}

bool are_apart(const TensorView& left, const TensorView& right) {
  const int64_t distance =
      reinterpret_cast<intptr_t>(right.data) - reinterpret_cast<intptr_t>(left.data);
  if (distance >= whole_extent(left) || -distance >= whole_extent(right)) return true;
  for (const TensorView* view : {&left, &right}) {
    for (int d = 0; d < view->rank; ++d) {
      const int64_t period = view->stride(d) * size_of(view->dtype);
      if (period > 0 && in_other_stripes(left, right, distance, period)) return true;
    }
  }
  return false;
}

}  // namespace

void require_distinct_elements(Argument argument, const TensorView& tensor) {
  if (tensor.num_elements() == 0) return;
  for (int d = 0; d < tensor.rank; ++d) {
    if (tensor.size(d) == 1) continue;
    const int64_t stride = tensor.stride(d);
    int64_t inner = 1;  // elements from the first to the last of the dimensions with less stride
    for (int e = 0; e < tensor.rank; ++e) {
      const bool has_less = tensor.stride(e) < stride || (tensor.stride(e) == stride && e < d);
      if (has_less) inner += (tensor.size(e) - 1) * tensor.stride(e);
    }
    GG_REQUIRE(stride >= inner, argument.op, ": ", argument.name, " got stride ", stride,
               " in dimension ", d, "; needs a tensor whose elements do not overlap");
  }
}

void require_apart(Argument argument, const TensorView& tensor, const char* name,
                   const TensorView& operand) {
  const bool nothing = tensor.num_elements() == 0 || operand.num_elements() == 0;
  GG_REQUIRE(nothing || tensor.data == nullptr || are_apart(tensor, operand), argument.op, ": ",
             argument.name, " got memory that ", name,
             " lies in; needs memory of its own; write to another tensor and copy");
}

}  // namespace gg::core
