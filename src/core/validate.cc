#include "core/validate.h"

#include <limits>

#include "base/check.h"

namespace gg::core {
namespace {

std::string prefix(Argument argument) { return base::concat(argument.op, ": ", argument.name); }

std::string list(std::initializer_list<DType> dtypes) {
  std::string text;
  for (DType dtype : dtypes) {
    if (!text.empty()) text += ", ";
    text += to_string(dtype);
  }
  return text;
}

}  // namespace

void require_rank(Argument argument, const TensorView& tensor, int rank, const char* layout) {
  GG_REQUIRE(tensor.rank == rank, prefix(argument), " got ", tensor.rank, " dimensions, shape ",
             shape_string(tensor), "; needs ", rank, ", ", layout);
}

void require_shape(Argument argument, const TensorView& tensor,
                   std::initializer_list<int64_t> sizes, const char* layout) {
  const TensorView expected = view(nullptr, tensor.dtype, sizes);
  const bool same = tensor.rank == expected.rank && tensor.sizes == expected.sizes;
  GG_REQUIRE(same, prefix(argument), " got shape ", shape_string(tensor), "; needs ",
             shape_string(expected), ", ", layout);
}

void require_dtype(Argument argument, const TensorView& tensor,
                   std::initializer_list<DType> allowed, const char* remedy) {
  for (DType dtype : allowed) {
    if (tensor.dtype == dtype) return;
  }
  GG_REQUIRE(false, prefix(argument), " got dtype ", to_string(tensor.dtype), "; needs ",
             allowed.size() > 1 ? "one of " : "", list(allowed), remedy != nullptr ? "; " : "",
             remedy != nullptr ? remedy : "");
}

void require_contiguous(Argument argument, const TensorView& tensor) {
  GG_REQUIRE(
      tensor.is_contiguous(), prefix(argument),
      " got a tensor with gaps or swapped dimensions; needs a contiguous one; copy it first");
}

void require_contiguous_rows(Argument argument, const TensorView& tensor) {
  const int last = tensor.rank - 1;
  GG_REQUIRE(tensor.size(last) <= 1 || tensor.stride(last) == 1 || tensor.num_elements() == 0,
             prefix(argument), " got elements of a row ", tensor.stride(last),
             " apart; needs rows without gaps; copy it first");
}

void require_int32_count(Argument argument, int64_t count, const char* what) {
  GG_REQUIRE(count <= std::numeric_limits<int32_t>::max(), prefix(argument), " got ", count, " ",
             what, "; needs at most ", std::numeric_limits<int32_t>::max(),
             ", since row numbers are int32; split the tokens");
}

void require_workspace(const char* op, const Workspace& workspace, int64_t bytes) {
  GG_REQUIRE(workspace.bytes >= bytes && (bytes == 0 || workspace.data != nullptr), op,
             ": workspace got ", workspace.bytes, " bytes; needs the plan's workspace_bytes, ",
             bytes);
}

int64_t host_entry(const GroupSizes& groups, int64_t index) {
  return groups.dtype == DType::kInt32 ? static_cast<const int32_t*>(groups.data)[index]
                                       : static_cast<const int64_t*>(groups.data)[index];
}

void require_groups(Argument argument, const GroupSizes& groups, int64_t num_rows,
                    const Target& target) {
  GG_REQUIRE(groups.dtype == DType::kInt32 || groups.dtype == DType::kInt64, prefix(argument),
             " got dtype ", to_string(groups.dtype), "; needs int32 or int64");
  GG_REQUIRE(groups.on_host || target.kind == Target::Kind::kCuda, prefix(argument),
             " got sizes on a device; needs sizes on the host for operands on the CPU; copy them");
  if (!groups.on_host) return;
  int64_t end = 0;
  for (int64_t e = 0; e < groups.num_groups; ++e) {
    const int64_t entry = host_entry(groups, e);
    if (groups.cumulative) {
      GG_REQUIRE(entry >= end, prefix(argument), " got ", entry, " at index ", e, " after ", end,
                 "; needs cumulative ends that never fall");
      end = entry;
    } else {
      GG_REQUIRE(entry >= 0, prefix(argument), " got ", entry, " at index ", e,
                 "; needs row counts of 0 or more");
      GG_REQUIRE(entry <= std::numeric_limits<int64_t>::max() - end, prefix(argument),
                 " got sizes whose sum overflows int64 at index ", e, "; needs a sum of at most ",
                 num_rows, ", the rows given");
      end += entry;
    }
  }
  GG_REQUIRE(end <= num_rows, prefix(argument), " got sizes for ", end, " rows; needs at most ",
             num_rows, ", the rows given");
}

}  // namespace gg::core
