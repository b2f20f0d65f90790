// Tensors on a GPU with the same guards and poison as those of the host, and
// runs of a problem there. Tests skip where there is no CUDA device.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <memory>

#include "cuda/door.h"
#include "support/run.h"

namespace gg::test {

class OnDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda::num_devices() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

// The same for tests that run over a table.
template <typename Param>
class OnDeviceWith : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (cuda::num_devices() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

inline void expect_success(cudaError_t status) {
  EXPECT_EQ(status, cudaSuccess) << cudaGetErrorString(status);
}

// A copy of a host tensor, its guards included, in device memory.
class DeviceTensor {
 public:
  explicit DeviceTensor(const Tensor& source) : host_(source.like()) {
    expect_success(cudaMalloc(&memory_, static_cast<size_t>(host_.num_bytes())));
    upload(source);
  }
  DeviceTensor(const DeviceTensor&) = delete;
  ~DeviceTensor() { cudaFree(memory_); }

  void upload(const Tensor& source) {
    expect_success(cudaMemcpy(memory_, source.memory(), static_cast<size_t>(host_.num_bytes()),
                              cudaMemcpyHostToDevice));
    expect_success(cudaDeviceSynchronize());  // side streams do not wait for the copy
  }

  // What a problem on the device needs.
  TensorView view() const { return host_.view_at(static_cast<unsigned char*>(memory_)); }

  // Waits, checks the guards, and gives the contents.
  const Tensor& download() {
    expect_success(cudaDeviceSynchronize());
    expect_success(cudaMemcpy(host_.memory(), memory_, static_cast<size_t>(host_.num_bytes()),
                              cudaMemcpyDeviceToHost));
    EXPECT_TRUE(host_.guards_intact());
    return host_;
  }

 private:
  Tensor host_;
  void* memory_ = nullptr;
};

// Plans for the target and runs on device 0 in a guarded workspace; returns the plan. Waits
// before the workspace goes.
template <typename Problem>
auto run_on_device(const Problem& problem, const Target& target, Stream stream = {}) {
  const auto plan = plan_for(problem, target);
  DeviceTensor workspace(Tensor(DType::kFloat8E4M3, {plan.workspace_bytes}));
  run(plan, problem, Workspace{workspace.view().data, plan.workspace_bytes}, stream);
  workspace.download();
  return plan;
}
template <typename Problem>
void run_on_device(const Problem& problem, Stream stream = {}) {
  run_on_device(problem, Target::cuda(0), stream);
}

// A stream that does not wait for the default one.
class SideStream {
 public:
  SideStream() { expect_success(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  SideStream(const SideStream&) = delete;
  ~SideStream() { cudaStreamDestroy(stream_); }

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace gg::test
