#include "cuda/gemm/sm90/tensor_maps.h"

#include <cuda_runtime.h>

#include "base/math.h"
#include "cuda/common/launch.h"
#include "cuda/gemm/sm90/copy_engine.h"

namespace gg::cuda::sm90 {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time, so that nothing links libcuda.
EncodeTiled find_encode_tiled(const char* op) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &found);
#else
  const cudaError_t status =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  check(op, "find cuTensorMapEncodeTiled", status);
  GG_REQUIRE(found == cudaDriverEntryPointSuccess && function != nullptr, op,
             ": got a driver without cuTensorMapEncodeTiled; needs one for CUDA 12.0 or newer; "
             "update the driver, or set GG_FORCE_PATH=portable");
  return reinterpret_cast<EncodeTiled>(function);
}

// The driver's functions, unlike the runtime's, do not make a thread's context current.
void bind_current_device(const char* op) {
  int device = 0;
  check(op, "tell which device is current", cudaGetDevice(&device));
  check(op, "make it current", cudaSetDevice(device));
}

// A matrix of kRank dimensions, the contiguous one first; strides (of the others) in
// bytes; the box that one copy moves, its rows of 128 bytes swizzled.
template <int kRank>
struct Layout {
  cuuint64_t sizes[kRank];
  cuuint64_t strides[kRank - 1];
  cuuint32_t box[kRank];
};

CUtensorMapDataType type_of(DType dtype) {
  if (dtype == DType::kFloat32) return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  return dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                  : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

// fp32 operands are rounded to tf32 on their way to shared memory.
CUtensorMapDataType operand_type_of(DType dtype) {
  return dtype == DType::kFloat32 ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 : type_of(dtype);
}

template <int kRank>
CUtensorMap encode(const char* op, const char* name, const TensorView& tensor,
                   const Layout<kRank>& layout, CUtensorMapDataType type) {
  static const EncodeTiled encode_tiled = find_encode_tiled(op);  // never changes
  constexpr cuuint32_t kEveryElement[] = {1, 1, 1, 1};
  CUtensorMap map;
  const auto encode_once = [&] {
    return encode_tiled(&map, type, kRank, tensor.data, layout.sizes, layout.strides, layout.box,
                        kEveryElement, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  CUresult status = encode_once();
  if (status == CUDA_ERROR_INVALID_CONTEXT) {  // this thread has not used the device before
    bind_current_device(op);
    status = encode_once();
  }
  GG_REQUIRE(status == CUDA_SUCCESS, op, ": ", name, " got a layout of shape ",
             shape_string(tensor),
             " that the driver refused to describe for the copy engine (error ",
             static_cast<int>(status), "); please report it; set GG_FORCE_PATH=portable meanwhile");
  return map;
}

cuuint64_t size_of_dim(const TensorView& tensor, int dim) {
  return static_cast<cuuint64_t>(tensor.size(dim));
}

// Bytes from one index of `dim` to the next, rounded up where the dimension has size 1.
cuuint64_t stride_bytes(const TensorView& tensor, int dim, int64_t packed) {
  const int64_t bytes = pitch_of(tensor, dim, packed) * size_of(tensor.dtype);
  return static_cast<cuuint64_t>(base::round_up(bytes, 16));
}

// Elements of a row of the swizzle.
cuuint32_t row_elements(const TensorView& tensor) {
  return static_cast<cuuint32_t>(128 / size_of(tensor.dtype));
}

// [T, K], in boxes of 128 bytes of 16, 32, ... 256 rows.
void encode_tokens(MGroupedArgs& args, const TensorView& tokens) {
  for (int i = 0; i < kTokenBoxes; ++i) {
    args.tokens[i] = encode<2>("gmm", "a", tokens,
                               {{size_of_dim(tokens, 1), size_of_dim(tokens, 0)},
                                {stride_bytes(tokens, 0, tokens.size(1))},
                                {row_elements(tokens), cuuint32_t{GeneralPolicy::kTokenStep} << i}},
                               operand_type_of(tokens.dtype));
  }
}

// [E, N, K] in boxes of 128 bytes of K and all features of a tile, or of 128 bytes of features
// and as many elements of K.
void encode_weights(MGroupedArgs& args, const TensorView& weights, const Variant& variant) {
  const int inner = variant.major == WeightMajor::kK ? 2 : 1;
  const int outer = 3 - inner;
  const int features = variant.tile == TileShape::kGeneral ? GeneralPolicy::kTileFeatures
                                                           : NarrowPolicy::kTileFeatures;
  const cuuint32_t box_rows = variant.major == WeightMajor::kK ? features : row_elements(weights);
  const int64_t matrix = pitch_of(weights, outer, weights.size(inner)) * weights.size(outer);
  args.weights = encode<3>(
      "gmm", "b", weights,
      {{size_of_dim(weights, inner), size_of_dim(weights, outer), size_of_dim(weights, 0)},
       {stride_bytes(weights, outer, weights.size(inner)), stride_bytes(weights, 0, matrix)},
       {row_elements(weights), box_rows, 1}},
      operand_type_of(weights.dtype));
}

// out [T, N] in boxes of 128 bytes of a row and 64 tokens, or 32 in fp32, cut off at any row
// without a descriptor for each group. Two dimensions walk over the rows: x, which ends at 2^30,
// and y. A piece with r rows left goes to x = 2^30 - r, y = row + r: 2^30 rows too far, clipped by
// x after r rows. The fourth coordinate, also 2^30, takes them back: 2^30 (2^34 - pitch) = -2^30
// pitch modulo 2^64.
void encode_out(MGroupedArgs& args, const TensorView& out) {
  constexpr cuuint64_t kOrigin = cuuint64_t{1} << 30;  // kClipOrigin of epilogue.cuh
  constexpr cuuint64_t kAny = 0x7fffffff;
  const cuuint64_t pitch = stride_bytes(out, 0, out.size(1));
  args.out_pieces = encode<4>("gmm", "out", out,
                              {{size_of_dim(out, 1), kOrigin, kAny, kAny},
                               {pitch, pitch, (cuuint64_t{1} << 34) - pitch},
                               {row_elements(out), out.dtype == DType::kFloat32 ? 32u : 64u, 1, 1}},
                              type_of(out.dtype));
}

// Token rows [T, features] in boxes of 64 features and 64 rows (of 32 bits 32), of which the last
// `valid` are rows from `row` on and the first ones zeros, without a descriptor for
// each group. Two dimensions walk over the rows: element (f, x, y) is feature f of row
// x + y. A box at x = valid - 64, y = row lies outside, below zero, up to row
// `row`, and the copy engine fills in zeros there. (The mirror image, boxes that run
// off x's upper end from a base before the tensor, faults where no memory is mapped
// before it.)
CUtensorMap encode_group_rows(const char* name, const TensorView& tensor) {
  const cuuint64_t pitch = stride_bytes(tensor, 0, tensor.size(1));
  const cuuint32_t rows = row_elements(tensor);  // kTileK
  return encode<3>("gmm_wgrad", name, tensor,
                   {{size_of_dim(tensor, 1), rows, size_of_dim(tensor, 0)},
                    {pitch, pitch},
                    {row_elements(tensor), rows, 1}},
                   operand_type_of(tensor.dtype));
}

// Matrices [E, rows, columns], in boxes of 128 bytes of so many rows.
CUtensorMap encode_matrices(const TensorView& out, int row_dim, int column_dim,
                            cuuint32_t box_rows) {
  const int64_t matrix = pitch_of(out, row_dim, out.size(column_dim)) * out.size(row_dim);
  return encode<3>(
      "gmm_wgrad", "out", out,
      {{size_of_dim(out, column_dim), size_of_dim(out, row_dim), size_of_dim(out, 0)},
       {stride_bytes(out, row_dim, out.size(column_dim)), stride_bytes(out, 0, matrix)},
       {row_elements(out), box_rows, 1}},
      type_of(out.dtype));
}

}  // namespace

void encode_tensor_maps(MGroupedArgs& args, const GmmProblem& problem, const Variant& variant) {
  encode_tokens(args, problem.tokens);
  encode_weights(args, problem.weights, variant);
  if (variant.store == StoreBy::kCopyEngine) encode_out(args, problem.out);
}

void encode_tensor_maps(KGroupedArgs& args, const WgradRoles& roles, const TensorView& out) {
  args.left = encode_group_rows(roles.left_name, roles.left);
  args.right = encode_group_rows(roles.right_name, roles.right);
  args.out = encode_matrices(out, roles.row_dim, roles.column_dim, 16);
  args.out_columns_ahead =
      encode_matrices(out, roles.row_dim, roles.column_dim, KGroupedWide::kTileRows);
}

}  // namespace gg::cuda::sm90
