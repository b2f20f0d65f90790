// Facts about the devices of this machine and about this build.
#include <cuda_runtime.h>

#include <vector>

#include "cuda/common/launch.h"
#include "cuda/door.h"
#include "grouped_gemm_build.h"

namespace gg::cuda {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check("device_limits", "tell its properties", cudaDeviceGetAttribute(&value, name, device));
  return value;
}

DeviceLimits query(int device) {
  DeviceLimits limits;
  limits.compute_capability = attribute(cudaDevAttrComputeCapabilityMajor, device) * 10 +
                              attribute(cudaDevAttrComputeCapabilityMinor, device);
  limits.num_sms = attribute(cudaDevAttrMultiProcessorCount, device);
  limits.shared_bytes_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return limits;
}

std::vector<DeviceLimits> query_all() {
  const int driver = driver_version();
  GG_REQUIRE(driver > 0, "device_limits: got no NVIDIA driver; needs one for CUDA ",
             CUDART_VERSION / 1000, ".0 or newer; install or update the driver, or use the CPU");
  GG_REQUIRE(driver / 1000 >= CUDART_VERSION / 1000, "device_limits: got a driver for CUDA ",
             driver / 1000, ".", driver % 1000 / 10, "; needs one for CUDA ", CUDART_VERSION / 1000,
             ".0 or newer, which this build was made with; update the "
             "driver, or build from source with your toolkit");
  int count = 0;
  check("device_limits", "count devices", cudaGetDeviceCount(&count));
  std::vector<DeviceLimits> all;
  for (int device = 0; device < count; ++device) all.push_back(query(device));
  return all;
}

}  // namespace

const char* built_architectures() { return GG_BUILT_CUDA_ARCHS; }
const char* built_toolkit() { return GG_BUILT_CUDA_VERSION; }

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int num_devices() {
  int count = 0;
  if (driver_version() == 0 || cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // having no device is an answer here, not an error to keep
    return 0;
  }
  return count;
}

DeviceLimits device_limits(int device_index) {
  static const std::vector<DeviceLimits> devices = query_all();  // they never change
  GG_REQUIRE(device_index >= 0 && device_index < static_cast<int>(devices.size()),
             "device_limits: device got cuda:", device_index, "; needs one of the ", devices.size(),
             " CUDA devices of this machine");
  return devices[static_cast<size_t>(device_index)];
}

}  // namespace gg::cuda
