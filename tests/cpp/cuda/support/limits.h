// Made-up limits of the GPU generations that are supported: plans can be tested
// where there is no GPU. Figures from the vendor's table of compute capabilities.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "support/run.h"

namespace gg::test {

struct Gpu {
  const char* name;
  DeviceLimits limits;

  Target target() const { return Target::cuda(limits); }
};

inline constexpr Gpu kGpus[] = {
    {"V100", {.compute_capability = 70, .num_sms = 80, .shared_bytes_per_block = 98304}},
    {"T4", {.compute_capability = 75, .num_sms = 40, .shared_bytes_per_block = 65536}},
    {"A100", {.compute_capability = 80, .num_sms = 108, .shared_bytes_per_block = 166912}},
    {"L40", {.compute_capability = 89, .num_sms = 142, .shared_bytes_per_block = 101376}},
    {"H100", {.compute_capability = 90, .num_sms = 132, .shared_bytes_per_block = 232448}},
    {"A10", {.compute_capability = 86, .num_sms = 72, .shared_bytes_per_block = 101376}},
    {"B200", {.compute_capability = 100, .num_sms = 148, .shared_bytes_per_block = 232448}},
    {"RTX5090", {.compute_capability = 120, .num_sms = 170, .shared_bytes_per_block = 101376}},
};

inline constexpr Gpu kTooOldGpu = {
    "P100", {.compute_capability = 60, .num_sms = 56, .shared_bytes_per_block = 49152}};

inline void PrintTo(const Gpu& gpu, std::ostream* out) { *out << gpu.name; }

inline std::string gpu_name(const testing::TestParamInfo<Gpu>& info) { return info.param.name; }

// Tests of plans on every made-up GPU; the environment forces nothing meanwhile.
class OnEveryGpu : public testing::TestWithParam<Gpu> {
 private:
  ScopedEnvironment nothing_forced_{"GG_FORCE_PATH", nullptr};
};

}  // namespace gg::test
