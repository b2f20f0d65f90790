// Whether what was compiled for some architectures can run on a device. Pure host code:
// paths ask it before they are chosen. No CUDA in this header.
#pragma once

#include <string_view>

namespace gg::cuda {

// `architectures` as in grouped_gemm_build.h, "75;90a;100f;120+PTX": machine code runs on
// its compute capability and later ones of the same major number, PTX on all later ones;
// code with an "a" on its own alone, with an "f" within its major number.
inline bool is_code_for(std::string_view architectures, int compute_capability) {
  while (!architectures.empty()) {
    const size_t length = architectures.find(';');
    const std::string_view entry = architectures.substr(0, length);
    architectures = length == entry.npos ? std::string_view{} : architectures.substr(length + 1);
    int number = 0;
    size_t digits = 0;
    while (digits < entry.size() && entry[digits] >= '0' && entry[digits] <= '9') {
      number = number * 10 + (entry[digits++] - '0');
    }
    const std::string_view suffix = entry.substr(digits);
    const bool is_exact = suffix.substr(0, 1) == "a";
    const bool is_ptx = suffix == "+PTX";
    if (digits == 0 || compute_capability < number) continue;
    if (compute_capability == number) return true;
    if (is_exact) continue;
    if (is_ptx || compute_capability / 10 == number / 10) return true;
  }
  return false;
}

}  // namespace gg::cuda
