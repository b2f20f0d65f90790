// Facts about this library and machine for `python -m grouped_gemm info` and
// for the loader's checks, as C functions that ctypes can call before any
// operator is registered.
#include "cuda/door.h"
#include "grouped_gemm/types.h"
#include "grouped_gemm_build.h"
#include "torch/convert.h"

#define GG_EXPORT extern "C" __attribute__((visibility("default")))

GG_EXPORT const char* grouped_gemm_version() { return gg::version(); }
GG_EXPORT const char* grouped_gemm_built_torch() { return GG_BUILT_TORCH_VERSION; }
GG_EXPORT const char* grouped_gemm_built_compiler() { return GG_BUILT_COMPILER; }
GG_EXPORT const char* grouped_gemm_built_architectures() { return gg::built_cuda_architectures(); }
GG_EXPORT const char* grouped_gemm_built_toolkit() { return gg::cuda::built_toolkit(); }
GG_EXPORT int grouped_gemm_driver_version() { return gg::cuda::driver_version(); }
GG_EXPORT void grouped_gemm_set_num_sms(int count) { gg::torch_binding::set_max_sms(count); }
GG_EXPORT int grouped_gemm_num_sms() { return gg::torch_binding::max_sms(); }
GG_EXPORT int grouped_gemm_num_devices() { return gg::cuda::num_devices(); }
