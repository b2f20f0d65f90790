// Which implementation an operator uses: built? runnable here? forced? The
// answer is a row of the table in path.cc. Called by every plan function.
#pragma once

#include <initializer_list>

#include "grouped_gemm/types.h"

namespace gg::core {

// The first path of `menu` (best first) that runs on the target, or the forced
// one: target.force_path, else the environment variable GG_FORCE_PATH. A forced
// path of the other kind of device is ignored, so that one variable can force a
// GPU path while CPU operators go on. Throws Error where nothing fits.
Path choose_path(const char* op, const Target& target, std::initializer_list<Path> menu);

}  // namespace gg::core
