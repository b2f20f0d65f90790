#include "cpu/parallel.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "base/math.h"

namespace gg::cpu {

void parallel_for_threads(int64_t count, int64_t grain, ParallelBody body, void* context) {
  const int64_t num_cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t num_pieces = base::clamp(count / std::max<int64_t>(1, grain), 1, num_cores);
  const int64_t piece = base::ceil_div(count, num_pieces);
  std::vector<std::thread> threads;
  for (int64_t begin = piece; begin < count; begin += piece) {
    threads.emplace_back(body, begin, std::min(begin + piece, count), context);
  }
  body(0, std::min(piece, count), context);
  for (std::thread& thread : threads) thread.join();
}

Stream serial_stream() {
  Stream stream;
  stream.parallel_for = [](int64_t count, int64_t, ParallelBody body, void* context) {
    body(0, count, context);
  };
  return stream;
}

}  // namespace gg::cpu
