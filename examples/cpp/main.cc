// The expert layer's two halves from C++, without PyTorch: route tokens to their
// experts with permute, then multiply each expert's rows with its own matrix.
// Runs on the CPU, and again on the GPU where the library was built with CUDA
// and there is one.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "grouped_gemm/error.h"
#include "grouped_gemm/gmm.h"
#include "grouped_gemm/permute.h"
#include "grouped_gemm/version.h"

#ifdef GROUPED_GEMM_HAS_CUDA  // defined by grouped_gemm::grouped_gemm
#include <cuda_runtime_api.h>
#endif

namespace {

constexpr int64_t kTokens = 4, kTopK = 2, kHidden = 3, kExperts = 3, kRows = kTokens * kTopK;

// The library allocates nothing: memory, visible to host and device, is ours to give.
using Allocate = std::function<void*(int64_t bytes)>;

template <class T>
T* filled(const Allocate& allocate, const std::vector<T>& values) {
  T* memory = static_cast<T*>(allocate(static_cast<int64_t>(values.size() * sizeof(T))));
  for (size_t i = 0; i < values.size(); ++i) memory[i] = values[i];
  return memory;
}

bool route_and_multiply(const gg::Target& target, const Allocate& allocate,
                        const std::function<void()>& wait) {
  const bool on_host = target.kind == gg::Target::Kind::kCpu;

  // Token t is the row (t, t, t); expert e multiplies by e + 1.
  const std::vector<int64_t> expert_ids{1, 2, 0, 1, 0, 2, 1, 2};  // [T, topK]
  std::vector<float> token_values, weight_values;
  for (int64_t i = 0; i < kTokens * kHidden; ++i) {
    token_values.push_back(static_cast<float>(i / kHidden));
  }
  for (int64_t i = 0; i < kExperts * kHidden * kHidden; ++i) {
    const int64_t e = i / (kHidden * kHidden), row = i / kHidden % kHidden, column = i % kHidden;
    weight_values.push_back(row == column ? static_cast<float>(e + 1) : 0.0f);
  }
  int64_t* indices = filled(allocate, expert_ids);
  float* tokens = filled(allocate, token_values);
  float* weights = filled(allocate, weight_values);
  float* permuted = filled(allocate, std::vector<float>(kRows * kHidden));
  int32_t* row_id_map = filled(allocate, std::vector<int32_t>(kRows));
  int32_t* tokens_per_expert = filled(allocate, std::vector<int32_t>(kExperts));
  int32_t* offsets = filled(allocate, std::vector<int32_t>(kExperts));
  float* result = filled(allocate, std::vector<float>(kRows * kHidden));

  // Every operator has the same three steps: say what, plan, run.
  const gg::PermuteProblem permute{
      .input = gg::view(tokens, gg::DType::kFloat32, {kTokens, kHidden}),
      .indices = gg::view(indices, gg::DType::kInt64, {kTokens, kTopK}),
      .output = gg::view(permuted, gg::DType::kFloat32, {kRows, kHidden}),
      .row_id_map = gg::view(row_id_map, gg::DType::kInt32, {kTopK, kTokens}),
      .num_experts = kExperts,
      .tokens_per_expert = gg::view(tokens_per_expert, gg::DType::kInt32, {kExperts}),
      .offsets = gg::view(offsets, gg::DType::kInt32, {kExperts})};
  const gg::PermutePlan permute_plan = gg::plan_permute(permute, target);
  std::printf("  %s\n", gg::to_string(permute_plan).c_str());
  gg::run(permute_plan, permute,
          gg::Workspace{allocate(permute_plan.workspace_bytes), permute_plan.workspace_bytes});

  // permute writes where each expert's rows end; on a GPU the host never sees it.
  const gg::GmmProblem gmm{
      .tokens = permute.output,
      .weights = gg::view(weights, gg::DType::kFloat32, {kExperts, kHidden, kHidden}),
      .groups = on_host ? gg::GroupSizes::on_host_offsets(offsets, gg::DType::kInt32, kExperts)
                        : gg::GroupSizes::on_device_offsets(offsets, gg::DType::kInt32, kExperts),
      .out = gg::view(result, gg::DType::kFloat32, {kRows, kHidden})};
  const gg::GmmPlan gmm_plan = gg::plan_gmm(gmm, target);
  std::printf("  %s\n", gg::to_string(gmm_plan).c_str());
  gg::run(gmm_plan, gmm,
          gg::Workspace{allocate(gmm_plan.workspace_bytes), gmm_plan.workspace_bytes});
  wait();

  bool right = true;
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t k = 0; k < kTopK; ++k) {
      const int64_t e = expert_ids[static_cast<size_t>(t * kTopK + k)];
      const int32_t row = row_id_map[k * kTokens + t];
      const float got = result[row * kHidden + kHidden - 1];
      const auto wanted = static_cast<float>(t * (e + 1));
      std::printf("  token %d, expert %d: row %d, %g\n", static_cast<int>(t), static_cast<int>(e),
                  row, got);
      right = right && got == wanted;
    }
  }
  return right;
}

// Memory that is freed when a run is over. Workspace must be 256-byte aligned.
using Owned = std::vector<std::unique_ptr<void, void (*)(void*)>>;

bool on_cpu() {
  Owned owned;
  const Allocate allocate = [&](int64_t bytes) {
    const size_t whole_lines = (static_cast<size_t>(bytes) / 256 + 1) * 256;
    void* memory = std::aligned_alloc(256, whole_lines);
    owned.emplace_back(memory, std::free);
    return std::memset(memory, 0, whole_lines);
  };
  std::puts("CPU");
  return route_and_multiply(gg::Target::cpu(), allocate, [] {});
}

#ifdef GROUPED_GEMM_HAS_CUDA
bool on_gpu() {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) {
    std::puts("no GPU here");
    return true;
  }
  Owned owned;
  const Allocate allocate = [&](int64_t bytes) -> void* {
    void* memory = nullptr;
    if (bytes > 0 && cudaMallocManaged(&memory, static_cast<size_t>(bytes)) != cudaSuccess) {
      throw gg::Error("example: no memory on the GPU");
    }
    owned.emplace_back(memory, [](void* m) { cudaFree(m); });
    return memory;
  };
  bool done = true;
  std::puts("GPU");
  const bool right = route_and_multiply(gg::Target::cuda(0), allocate,
                                        [&] { done = cudaDeviceSynchronize() == cudaSuccess; });
  return right && done;
}
#endif

}  // namespace

int main() try {
  std::printf("grouped_gemm %s (headers %d)\n", gg::version(), GROUPED_GEMM_VERSION);
  bool right = on_cpu();
#ifdef GROUPED_GEMM_HAS_CUDA
  right = on_gpu() && right;
#endif
  std::puts(right ? "right" : "WRONG");
  return right ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (const gg::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return EXIT_FAILURE;
}
