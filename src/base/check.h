// Error messages: formatted from the values that were tested, never by hand.
// Used by every host file; GG_REQUIRE is the only way to throw.
#pragma once

#include <sstream>
#include <string>

#include "grouped_gemm/error.h"

namespace gg::base {

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace gg::base

// GG_REQUIRE(rows <= T, "gmm: batch_sizes sum to ", rows, "; needs at most ", T);
#define GG_REQUIRE(condition, ...)                        \
  do {                                                    \
    if (!(condition)) [[unlikely]] {                      \
      throw ::gg::Error(::gg::base::concat(__VA_ARGS__)); \
    }                                                     \
  } while (0)
