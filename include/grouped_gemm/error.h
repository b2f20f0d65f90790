// The one error type of the C++ API.
#pragma once

#include <stdexcept>

namespace gg {

// Thrown by every plan_* function for anything wrong with a problem, before
// anything is written; and by run() if the device refuses a launch.
// The text reads "operator: argument got X; needs Y; remedy".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace gg
