// Loops that are split over threads, and the hooks by which a caller lends its
// own thread pool and its own matmul.
#include "cpu/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "support/gmm_case.h"
#include "support/permute_case.h"
#include "support/run.h"

namespace gg::test {
namespace {

// How often each index of [0, count) is visited.
std::vector<int> visits_of(ParallelFor split, int64_t count, int64_t grain) {
  std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
  split(
      count, grain,
      [](int64_t begin, int64_t end, void* context) {
        auto& all = *static_cast<std::vector<std::atomic<int>>*>(context);
        for (int64_t i = begin; i < end; ++i) ++all[static_cast<size_t>(i)];
      },
      &visits);
  return {visits.begin(), visits.end()};
}

TEST(ParallelForThreads, VisitsEveryIndexOnce) {
  for (int64_t count : {1, 2, 3, 7, 64, 1000, 1001}) {
    for (int64_t grain : {0, 1, 2, 100, 5000}) {
      EXPECT_EQ(visits_of(cpu::parallel_for_threads, count, grain),
                std::vector<int>(static_cast<size_t>(count), 1))
          << count << " by " << grain;
    }
  }
}

TEST(ParallelFor, DoesNotCallTheBodyForNothing) {
  cpu::parallel_for(Stream{}, 0, 1, [](int64_t, int64_t) { FAIL(); });
}

TEST(ParallelFor, StaysOnTheCallersThreadBelowTheGrain) {
  const auto caller = std::this_thread::get_id();
  int num_calls = 0;
  cpu::parallel_for(Stream{}, 100, 100, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 100);
    ++num_calls;
  });
  EXPECT_EQ(num_calls, 1);
}

TEST(ParallelFor, RunsInOneGoOnASerialStream) {
  int num_calls = 0;
  cpu::parallel_for(cpu::serial_stream(), 1000, 1, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(end - begin, 1000);
    ++num_calls;
  });
  EXPECT_EQ(num_calls, 1);
}

// A caller's thread pool: pieces of odd lengths, from the end, on two threads.
std::atomic<int> num_pool_calls;

void odd_pool(int64_t count, int64_t, ParallelBody body, void* context) {
  ++num_pool_calls;
  const auto take_every_second = [&](int64_t first) {
    for (int64_t piece = first; piece >= 0; piece -= 2) {
      body(piece * 3, std::min(piece * 3 + 3, count), context);
    }
  };
  const int64_t last = (count - 1) / 3;
  std::thread other(take_every_second, last - 1);
  take_every_second(last);
  other.join();
}

Stream pool_stream() {
  num_pool_calls = 0;
  Stream stream;
  stream.parallel_for = odd_pool;
  return stream;
}

const GroupShape kShape{"", {40, 0, 60, 1}};

TEST(ParallelForHook, CarriesPermute) {
  const PermuteCase permute(random_ids(kShape, 2, 1), 2, 1000, DType::kFloat32);
  run_on_cpu(permute.problem(), Path::kParallel, pool_stream());
  permute.expect_right();
  EXPECT_GT(num_pool_calls, 0);
}

TEST(ParallelForHook, CarriesGmmAndItsWgrad) {
  const GmmCase gmm(kShape, {16, 24}, DType::kFloat32, DType::kFloat32);
  run_on_cpu(gmm.problem(), Path::kParallel, pool_stream());
  EXPECT_TRUE(is_close(gmm.out, gmm.expected()));
  EXPECT_GT(num_pool_calls, 0);

  const WgradCase wgrad(kShape, {16, 24}, DType::kFloat32, DType::kFloat32);
  run_on_cpu(wgrad.problem(), Path::kParallel, pool_stream());
  EXPECT_TRUE(is_close(wgrad.out, wgrad.expected()));
  EXPECT_GT(num_pool_calls, 0);
}

TEST(ParallelForHook, IsLeftAloneByTheReferencePath) {
  const GmmCase gmm(kShape, {16, 24}, DType::kFloat32, DType::kFloat32);
  run_on_cpu(gmm.problem(), Path::kReference, pool_stream());
  EXPECT_EQ(num_pool_calls, 0);
}

// A caller's matmul that also keeps the shapes that it was asked for.
struct MatmulCall {
  int64_t m, n, k;
  bool accumulate;

  bool operator==(const MatmulCall&) const = default;
};
std::vector<MatmulCall> matmul_calls;

double element(const TensorView& matrix, int64_t i, int64_t j) {
  return static_cast<const float*>(matrix.data)[i * matrix.stride(0) + j * matrix.stride(1)];
}

void own_matmul(const TensorView& a, const TensorView& b, const TensorView& out, bool accumulate) {
  ASSERT_EQ(a.size(1), b.size(0));
  ASSERT_EQ(a.size(0), out.size(0));
  ASSERT_EQ(b.size(1), out.size(1));
  matmul_calls.push_back({a.size(0), b.size(1), a.size(1), accumulate});
  for (int64_t i = 0; i < out.size(0); ++i) {
    for (int64_t j = 0; j < out.size(1); ++j) {
      float& target = static_cast<float*>(out.data)[i * out.stride(0) + j * out.stride(1)];
      double sum = accumulate ? target : 0.0;
      for (int64_t k = 0; k < a.size(1); ++k) sum += element(a, i, k) * element(b, k, j);
      target = static_cast<float>(sum);
    }
  }
}

Stream matmul_stream() {
  matmul_calls.clear();
  Stream stream;
  stream.matmul = own_matmul;
  return stream;
}

TEST(MatmulHook, IsCalledOnceForEachGroupThatHasRows) {
  const GmmCase gmm(kShape, {3, 5}, DType::kFloat32, DType::kFloat32, /*extra_rows=*/4);
  run_on_cpu(gmm.problem(), Path::kParallel, matmul_stream());
  EXPECT_EQ(matmul_calls,
            (std::vector<MatmulCall>{{40, 5, 3, false}, {60, 5, 3, false}, {1, 5, 3, false}}));
  EXPECT_TRUE(is_close(gmm.out, gmm.expected())) << "the rows past the last group are zeros";
  EXPECT_TRUE(gmm.out.guards_intact());
}

TEST(MatmulHook, IsToldWhenToAccumulate) {
  for (bool accumulate : {false, true}) {
    const WgradCase wgrad(kShape, {3, 5}, DType::kFloat32, DType::kFloat32, accumulate);
    run_on_cpu(wgrad.problem(), Path::kParallel, matmul_stream());
    EXPECT_EQ(matmul_calls,
              (std::vector<MatmulCall>{
                  {5, 3, 40, accumulate}, {5, 3, 60, accumulate}, {5, 3, 1, accumulate}}));
    EXPECT_TRUE(is_close(wgrad.out, wgrad.expected())) << "the empty group too";
    EXPECT_TRUE(wgrad.out.guards_intact());
  }
}

TEST(MatmulHook, GetsStridesInsteadOfCopies) {
  for (Layout layout : kLayouts) {
    const GmmCase gmm(kShape, {7, 2}, DType::kFloat32, DType::kFloat32, 3, layout);
    run_on_cpu(gmm.problem(), Path::kParallel, matmul_stream());
    EXPECT_TRUE(is_close(gmm.out, gmm.expected()));
    const WgradCase wgrad(kShape, {7, 2}, DType::kFloat32, DType::kFloat32, true, 3, layout);
    run_on_cpu(wgrad.problem(), Path::kParallel, matmul_stream());
    EXPECT_TRUE(is_close(wgrad.out, wgrad.expected()));
    EXPECT_TRUE(gmm.out.guards_intact() && wgrad.out.guards_intact());
  }
}

TEST(MatmulHook, IsNotAskedForAProductWithoutTerms) {
  const GmmCase gmm(kShape, {0, 5}, DType::kFloat32, DType::kFloat32);
  run_on_cpu(gmm.problem(), Path::kParallel, matmul_stream());
  EXPECT_TRUE(matmul_calls.empty());
  EXPECT_TRUE(all_zero(gmm.out));
}

TEST(MatmulHook, IsLeftAloneByTheReferencePath) {
  const GmmCase gmm(kShape, {3, 5}, DType::kFloat32, DType::kFloat32);
  run_on_cpu(gmm.problem(), Path::kReference, matmul_stream());
  EXPECT_TRUE(matmul_calls.empty());
  EXPECT_TRUE(is_close(gmm.out, gmm.expected()));
}

}  // namespace
}  // namespace gg::test
