// Rows that move by a map: launches. Kernels: permute_rows.cuh,
// permute_unaligned.cuh.
#include "cuda/permute/permute_rows.h"

#include "base/math.h"
#include "cuda/common/dependent_launch.h"
#include "cuda/door.h"
#include "cuda/permute/fast_div.h"
#include "cuda/permute/permute_rows.cuh"
#include "cuda/permute/permute_unaligned.cuh"
#include "cuda/permute/support.h"

namespace gg::cuda {
namespace {

// `rows_per_block` tokens' rows, or pieces of them, a block; `cut`: how.
template <auto* kKernel, typename Cut>
void launch_kernel(const char* op, const PermuteRowsArgs& args, int64_t num_rows,
                   int64_t rows_per_block, Cut cut, LaunchShape shape, cudaStream_t stream) {
  prefer_common_split<kKernel>(op);
  // A block at least, for rows of zeros where there are no tokens.
  shape.num_blocks = base::max(1, base::ceil_div(num_rows, rows_per_block));
  launch(op, kKernel, shape, stream, args, cut);
}

DeviceLimits current_limits(const char* op) {
  int device = 0;
  check(op, "tell which device is current", cudaGetDevice(&device));
  return device_limits(device);
}

template <int kThreads>
void launch_aligned(const char* op, const PermuteRowsArgs& args, int64_t spare_shared_bytes,
                    bool dependent, cudaStream_t stream) {
  const RowShape shape = row_shape(args.row_bytes / kVectorBytes, 1, kThreads);
  launch_kernel<&permute_rows<kThreads>>(op, args, args.num_tokens, shape.rows_per_block(), shape,
                                         {.num_blocks = 0,
                                          .num_threads = kThreads,
                                          .shared_bytes = spare_shared_bytes,
                                          .dependent = dependent},
                                         stream);
}

void launch_rows(const char* op, const PermuteRowsArgs& args, int vector_bytes, bool dependent,
                 cudaStream_t stream) {
  if (args.row_bytes == 0 || args.num_out == 0) return;
  if (vector_bytes < kVectorBytes) {
    const int64_t pieces = base::max(1, base::ceil_div(most_whole(args.row_bytes), kPieceWindows));
    return launch_kernel<&permute_unaligned_rows>(
        op, args, args.num_tokens * pieces, kWarpsPerBlock, FastDiv(static_cast<uint32_t>(pieces)),
        {.num_blocks = 0, .num_threads = kRowThreads, .dependent = dependent}, stream);
  }
  const PermuteRowsPolicy policy =
      permute_rows_policy(args.row_bytes, args.topk, args.num_tokens, current_limits(op));
  const auto launch_policy = policy.threads == 512 ? launch_aligned<512> : launch_aligned<256>;
  launch_policy(op, args, policy.spare_shared_bytes, dependent, stream);
}

}  // namespace

void launch_permute_rows(const char* op, const TensorView& map, const TensorView& input,
                         const TensorView& output, int vector_bytes, const int* num_kept,
                         cudaStream_t stream, AfterPrevious after) {
  const int64_t element_bytes = size_of(input.dtype);
  const int64_t row_bytes = input.size(1) * element_bytes;
  const int64_t input_pitch = input.stride(0) * element_bytes;
  const int topk = static_cast<int>(map.size(0));
  const int64_t num_tokens = topk > 0 ? map.size(1) : 0;
  // Rows with gaps between them are not fetched ahead.
  const bool in_one_piece = input_pitch == row_bytes;
  launch_rows(op,
              {.input = static_cast<const char*>(input.data),
               .output = static_cast<char*>(output.data),
               .row_id_map = {map.data, /*is_int64=*/false},
               .num_kept = num_kept,
               .inner_rows = inner_rows(input),
               .input_pitch = input_pitch,
               .row_bytes = row_bytes,
               .num_tokens = num_tokens,
               .topk = topk,
               .num_out = output.size(0),
               .waits_first = after.waits_first,
               .burst = Burst(in_one_piece ? row_bytes : 0, num_tokens)},
              vector_bytes, after.dependent, stream);
}

}  // namespace gg::cuda
