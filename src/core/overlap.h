// Which views of memory share elements, judged by their strides. Called by gmm.cc before anything
// is written: an output in an operand's memory would be read after it was written.
#pragma once

#include "core/validate.h"
#include "grouped_gemm/tensor_view.h"

namespace gg::core {

// Refuses elements that share memory: several threads would write them.
void require_distinct_elements(Argument argument, const TensorView& tensor);

// Refuses memory that `operand`, called `name`, may lie in. Views whose addresses interleave pass
// where they surely do not meet, such as column ranges of one matrix.
void require_apart(Argument argument, const TensorView& tensor, const char* name,
                   const TensorView& operand);

}  // namespace gg::core
