#include "cuda/common/dependent_launch.h"

namespace gg::cuda {
namespace {

// Only its attributes matter: the code that the driver picked for a device
// tells which architecture's PTX it was made from.
__global__ void probe() {}

constexpr int kUnknown = 0, kNo = 1, kYes = 2;

}  // namespace

bool can_launch_dependent() {
  static std::atomic<int> answers[64];  // of what never changes
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= 64) return false;
  int answer = answers[device].load(std::memory_order_relaxed);
  if (answer == kUnknown) {
    cudaFuncAttributes facts{};
    const bool known = cudaFuncGetAttributes(&facts, probe) == cudaSuccess;
    cudaGetLastError();
    answer = known && facts.ptxVersion >= 90 ? kYes : kNo;
    answers[device].store(answer, std::memory_order_relaxed);
  }
  return answer == kYes;
}

}  // namespace gg::cuda
