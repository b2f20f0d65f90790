// Checks that several operators share, each with the message its user sees:
// "operator: argument got X; needs Y; remedy". Called by the operators' plan
// functions in this folder, before anything is chosen or written.
#pragma once

#include <initializer_list>
#include <string>

#include "grouped_gemm/tensor_view.h"

namespace gg::core {

// Who is speaking and about what: every message starts with both.
struct Argument {
  const char* op;
  const char* name;
};

void require_rank(Argument argument, const TensorView& tensor, int rank, const char* layout);
void require_shape(Argument argument, const TensorView& tensor,
                   std::initializer_list<int64_t> sizes, const char* layout);
void require_dtype(Argument argument, const TensorView& tensor,
                   std::initializer_list<DType> allowed, const char* remedy = nullptr);
void require_contiguous(Argument argument, const TensorView& tensor);
void require_contiguous_rows(Argument argument, const TensorView& tensor);

// Fewer than 2^31: row numbers and slots travel as int32.
void require_int32_count(Argument argument, int64_t count, const char* what);

// Host sizes: none negative, no overflow, at most num_rows in all; host
// offsets: never falling, the last at most num_rows. Device values are not
// read, and are refused for operands on the CPU.
void require_groups(Argument argument, const GroupSizes& groups, int64_t num_rows,
                    const Target& target);

void require_workspace(const char* op, const Workspace& workspace, int64_t bytes);

// Reads one entry of host sizes or offsets.
int64_t host_entry(const GroupSizes& groups, int64_t index);

}  // namespace gg::core
