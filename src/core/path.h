// Which implementation an operator uses: built? runnable here? forced? The
// answer is a row of the table in path.cc. Called by every plan function.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "grouped_gemm/types.h"

namespace gg::core {

// Why a path cannot run this problem (a clause that lives on; empty: it can).
using RefusalOf = std::function<std::string_view(Path)>;

// Of the operators with one implementation for each kind of device, best first.
inline constexpr Path kPlainMenu[] = {Path::kParallel, Path::kReference, Path::kPortable};

// Whether a path is one of this kind of device, and may run on the target.
bool is_path_of(Path path, Target::Kind kind);
bool runs_on(Path path, const Target& target);

// The first path of `menu` (best first) that runs on the target, or the forced
// one: target.force_path, else the environment variable GG_FORCE_PATH. A forced
// path of the other kind of device is ignored, so that one variable can force a
// GPU path while CPU operators go on. A path refused for this problem is passed
// over, and `because` says why the first of them was; paths behind the one taken are
// not asked, and without `refusal_of` none refuses. What target.force_path names
// must run: its refusal is an error. What the environment names is the best path
// that there is, as on an older device: what it refuses goes on down the menu, so
// that a whole suite runs under it. Throws Error where nothing fits.
Path choose_path(const char* op, const Target& target, std::span<const Path> menu,
                 const RefusalOf& refusal_of = {}, std::string_view* because = nullptr);

}  // namespace gg::core
