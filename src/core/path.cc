#include "core/path.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "base/check.h"
#include "cuda/door.h"

namespace gg {

Target Target::cpu() { return Target{}; }

Target Target::cuda(int device_index) {
  Target target;
  target.kind = Kind::kCuda;
  target.device_index = device_index;
  target.limits = cuda::device_limits(device_index);
  return target;
}

Target Target::cuda(const DeviceLimits& limits) {
  Target target;
  target.kind = Kind::kCuda;
  target.limits = limits;
  return target;
}

const char* built_cuda_architectures() { return cuda::built_architectures(); }

}  // namespace gg

namespace gg::core {
namespace {

struct PathRow {
  Path path;
  Target::Kind kind;
  int min_compute_capability;  // 0 on the CPU
  int max_compute_capability;
};

constexpr PathRow kPaths[] = {
    {Path::kReference, Target::Kind::kCpu, 0, 0},    {Path::kParallel, Target::Kind::kCpu, 0, 0},
    {Path::kPortable, Target::Kind::kCuda, 70, 999}, {Path::kSimt, Target::Kind::kCuda, 70, 999},
    {Path::kSm70, Target::Kind::kCuda, 70, 999},     {Path::kSm75, Target::Kind::kCuda, 75, 999},
    {Path::kSm80, Target::Kind::kCuda, 80, 999},     {Path::kSm90, Target::Kind::kCuda, 90, 90},
};

const PathRow& row_of(Path path) {
  for (const PathRow& row : kPaths) {
    if (row.path == path) return row;
  }
  throw Error(base::concat("path: no row for ", to_string(path)));
}

// By the environment, where the target leaves it open.
Path forced_path(const char* op, const Target& target) {
  if (target.force_path != Path::kAuto) return target.force_path;
  const char* name = std::getenv("GG_FORCE_PATH");
  if (name == nullptr || *name == '\0' || std::strcmp(name, "auto") == 0) return Path::kAuto;
  std::string known = "auto";
  for (const PathRow& row : kPaths) {
    if (std::strcmp(name, to_string(row.path)) == 0) return row.path;
    known += base::concat(", ", to_string(row.path));
  }
  GG_REQUIRE(false, op, ": the environment variable GG_FORCE_PATH got '", name, "'; needs one of ",
             known, "; unset it");
  return Path::kAuto;
}

// What of the menu begins with the path; nothing where it does not have it.
std::span<const Path> from(std::span<const Path> menu, Path path) {
  while (!menu.empty() && menu.front() != path) menu = menu.subspan(1);
  return menu;
}

bool includes(const PathRow& row, int compute_capability) {
  return compute_capability >= row.min_compute_capability &&
         compute_capability <= row.max_compute_capability;
}

}  // namespace

bool is_path_of(Path path, Target::Kind kind) { return row_of(path).kind == kind; }

bool runs_on(Path path, const Target& target) {
  return is_path_of(path, target.kind) && includes(row_of(path), target.limits.compute_capability);
}

Path choose_path(const char* op, const Target& target, std::span<const Path> menu,
                 const RefusalOf& refusal_of, std::string_view* because) {
  const Path forced = forced_path(op, target);
  const bool on_cuda = target.kind == Target::Kind::kCuda;
  const std::span<const Path> rest = from(menu, forced);
  bool is_strict = false;
  if (!rest.empty() && row_of(forced).kind == target.kind) {
    const PathRow& row = row_of(forced);
    GG_REQUIRE(includes(row, target.limits.compute_capability), op, ": forced path ",
               to_string(forced), " got a device of compute capability ",
               target.limits.compute_capability / 10, ".", target.limits.compute_capability % 10,
               "; needs ", row.min_compute_capability / 10, ".", row.min_compute_capability % 10,
               row.min_compute_capability == row.max_compute_capability ? "" : " or more",
               "; unset GG_FORCE_PATH");
    is_strict = target.force_path != Path::kAuto;
    menu = rest;
  }
  for (Path path : menu) {
    if (!runs_on(path, target)) continue;
    const std::string_view refusal = refusal_of ? refusal_of(path) : std::string_view{};
    if (refusal.empty()) return path;
    GG_REQUIRE(!is_strict, op, ": forced path ", to_string(forced),
               " got a problem that it cannot run: ", refusal,
               "; needs another path; leave force_path open");
    if (because != nullptr && because->empty()) *because = refusal;
  }
  GG_REQUIRE(false, op, ": got a ", on_cuda ? "CUDA" : "CPU", " device of compute capability ",
             target.limits.compute_capability / 10, ".", target.limits.compute_capability % 10,
             "; needs 7.0 or more (built for: ", built_cuda_architectures(),
             "); run on a newer GPU or on the CPU");
  return Path::kAuto;
}

}  // namespace gg::core
