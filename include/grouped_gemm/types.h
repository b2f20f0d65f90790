// Plain values that every operator's header uses: element types, where an
// operator runs, and what run() needs besides the problem.
#pragma once

#include <cstdint>
#include <string>

namespace gg {

enum class DType : uint8_t {
  kFloat32,
  kFloat16,
  kBFloat16,
  kFloat8E4M3,  // e4m3fn: no infinities, largest value 448
  kFloat8E5M2,  // largest finite value 57344, then Inf
  kFloat64,     // CPU only, for gradient checks
  kInt32,
  kInt64,
  kBool,  // one byte, 0 or not
};

int64_t size_of(DType dtype);  // bytes of one element
const char* to_string(DType dtype);

// The implementations of an operator. plan_* picks one (src/core/path.cc).
enum class Path : uint8_t {
  kAuto,       // as the target and the problem ask
  kReference,  // CPU: the plain loop that is the operator's meaning
  kParallel,   // CPU: several threads
  kPortable,   // CUDA: any compute capability, shape and alignment
  kSimt,       // CUDA: any compute capability, multiply-adds at their full rate
  kSm80,       // CUDA: compute capability 8.0 or more, tensor cores by mma.sync
  kSm70,       // CUDA: fp16 on tensor cores as Volta has them, compute capability 7.0 and more
  kSm75,       // CUDA: fp16 on tensor cores as Turing has them, 7.5 and more
  kSm90,       // CUDA: compute capability 9.0, its tensor cores and copy engine
};

const char* to_string(Path path);

// What of a device decides on paths and policies.
struct DeviceLimits {
  int compute_capability = 0;  // 90 for 9.0
  int num_sms = 0;
  int64_t shared_bytes_per_block = 0;  // the opt-in maximum
  bool is_shared = false;              // num_sms are not all: others run beside (Target::max_sms)

  bool operator==(const DeviceLimits&) const = default;
};

// Where a problem runs.
struct Target {
  enum class Kind : uint8_t { kCpu, kCuda };

  Kind kind = Kind::kCpu;
  int device_index = 0;
  DeviceLimits limits;
  int max_sms = 0;                // multiprocessors that grouped GEMM may keep busy at once; 0: all
  Path force_path = Path::kAuto;  // for tests and bug reports; the environment
                                  // variable GG_FORCE_PATH sets it too

  static Target cpu();
  // Limits are read once per device and kept. Throws Error where this build or
  // this machine cannot run on that device, naming what would help.
  static Target cuda(int device_index);
  // Made-up limits: plans can be tested on a machine without a GPU.
  static Target cuda(const DeviceLimits& limits);
};

// Calls body(begin, end, context) for pieces that cover [0, count) once each,
// in any order, from any number of threads; returns when all are done.
using ParallelBody = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t count, int64_t grain, ParallelBody body, void* context);

// out = a * b, or out += a * b; matrices [M,K], [K,N], [M,N] with any strides,
// a and b of one dtype, out of the same or float32.
struct TensorView;
using Matmul = void (*)(const TensorView& a, const TensorView& b, const TensorView& out,
                        bool accumulate);

// Where run() queues its work, and what the caller lends it for that.
struct Stream {
  void* cuda = nullptr;                // a cudaStream_t; nullptr is the default stream
  ParallelFor parallel_for = nullptr;  // CPU only; nullptr uses std::thread
  Matmul matmul = nullptr;             // CPU only: a BLAS for gmm; nullptr uses plain loops

  Stream() = default;
  Stream(void* cuda_stream) : cuda(cuda_stream) {}  // NOLINT: implicit, run(..., stream) reads well
};

// Scratch memory that the caller owns: at least plan.workspace_bytes, 256-byte
// aligned, on the target's device, untouched by others until the work is done.
struct Workspace {
  void* data = nullptr;
  int64_t bytes = 0;
};

// Version of the library in use, and the CUDA architectures it was built for
// ("" for a CPU-only build).
const char* version();
const char* built_cuda_architectures();

}  // namespace gg
