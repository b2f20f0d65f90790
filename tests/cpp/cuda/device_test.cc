// Devices of this machine and of this build.
#include <gtest/gtest.h>

#include "cuda/support/device.h"
#include "cuda/support/limits.h"

namespace gg::test {
namespace {

TEST(CudaBuild, NamesItsArchitecturesAndToolkit) {
  EXPECT_STRNE(built_cuda_architectures(), "");
  EXPECT_STRNE(cuda::built_toolkit(), "");
}

TEST(CudaBuild, CountsDevicesWithoutLeavingAnErrorBehind) {
  EXPECT_GE(cuda::num_devices(), 0);
  if (cuda::driver_version() == 0) GTEST_SKIP() << "every CUDA call fails without a driver";
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(CudaBuild, RefusesADeviceThatIsNotThere) {
  EXPECT_TRUE(refuses([] { Target::cuda(4711); }, {"device_limits: "}));
  EXPECT_TRUE(refuses([] { Target::cuda(-1); }, {"device_limits: "}));
}

TEST(CudaBuild, NamesTheDriverThatIsMissing) {
  if (cuda::driver_version() != 0) GTEST_SKIP() << "this machine has a driver";
  EXPECT_TRUE(refuses([] { Target::cuda(0); }, {"driver", "update the driver"}));
}

TEST_F(OnDevice, ReadsLimitsThatAPlanCanUse) {
  const DeviceLimits limits = cuda::device_limits(0);
  EXPECT_GE(limits.compute_capability, 70);
  EXPECT_GT(limits.num_sms, 0);
  EXPECT_GE(limits.shared_bytes_per_block, 48 * 1024);
  EXPECT_EQ(Target::cuda(0).limits, limits);
}

TEST_F(OnDevice, NamesTheDeviceThatIsNotThere) {
  EXPECT_TRUE(refuses([] { Target::cuda(4711); }, {"cuda:4711", "CUDA devices of this machine"}));
}

}  // namespace
}  // namespace gg::test
