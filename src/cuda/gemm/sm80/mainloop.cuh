// The persistent kernel that both GEMMs are: a block claims tiles of the output until none is
// left, and multiplies each slice by slice. Slices are loaded some iterations ahead, across the
// end of a tile, so that nothing but the first tile of a block waits for memory, and stores pass
// under the next tile's loads. m_grouped.cuh and k_grouped.cuh supply a Job:
//
//   Policy                    a TilePolicy (policy.h)
//   In, Tile, Left, Right     element type; a tile of out; layouts of the operands (operands.cuh)
//   Window, window()          group sizes, 32 at a time (cuda/gemm/group_window.cuh)
//   find(window, number)      a tile by its number; an end where there is no such tile
//   reduction(tile)           elements to sum up
//   left(tile), right(tile)   where its operands begin (Source)
//   row_steps(tile)           its rows in kRowStep, 1 to 4
//   kShortEnds                whether reductions end anywhere in a slice: its rest is left out then
//   store(tile, sums, place)  what happens to the sums
#pragma once

#include <new>

#include "cuda/gemm/group_window.cuh"
#include "cuda/gemm/sm80/multiply.cuh"
#include "cuda/gemm/sm80/slices.cuh"

namespace gg::cuda::sm80 {

// What lies in shared memory behind the stages.
template <class Job>
struct Shared {
  typename Job::Tile tile[2];       // the running one and the next
  typename Job::Window window[32];  // warp 0's: here rather than in registers it needs for sums
};

template <class Job>
struct Mainloop {
  using Left = typename Job::Left;
  using Right = typename Job::Right;
  using Tile = typename Job::Tile;
  using Ring = Slices<Left, Right, Job::Policy::kStages>;
  static constexpr int kLookahead = Ring::kLookahead;
  static constexpr int kElementsPerSlice = kSliceBytes / sizeof(typename Job::In);
  static constexpr int kStagesBytes = Job::Policy::kStages * Ring::kStageBytes;
  static_assert(Ring::kStageBytes == stage_bytes(Job::Policy::kTileColumns));
  static_assert(sizeof(Shared<Job>) <= kOtherBytes);

  const Job& job;
  Shared<Job>& shared;
  unsigned* const claims;
  Ring slices;
  const Place place = Place::of<Job::Policy::kThreads>(threadIdx.x);
  int current = 0;  // of shared.tile
  int claimed = 0;  // lane 0 of warp 0

  // ---- tiles ----

  __device__ __forceinline__ void find_tile(int number, int slot) {
    const Tile found = job.find(shared.window[lane_index()], number);
    if (lane_index() == 0) shared.tile[slot] = found;
  }

  __device__ __forceinline__ void start_loads(const Tile& tile) {
    slices.start(job.left(tile), job.right(tile));
  }

  // Towards the end of a tile, so that an idle block can take what this one would only queue.
  // `left_over`: slices of the tile that have not been multiplied.
  __device__ __forceinline__ void look_ahead(int left_over) {
    if (left_over > kLookahead + 2) [[likely]]
      return;
    if (left_over == kLookahead + 2 && threadIdx.x == 0) {
      claimed = static_cast<int>(gridDim.x + atomicAdd(claims, 1u));
    }
    if (left_over == kLookahead + 1 && threadIdx.x < 32) {
      find_tile(__shfl_sync(kWholeWarp, claimed, 0), current ^ 1);
    }
    if (left_over == kLookahead) start_loads(shared.tile[current ^ 1]);
  }

  // ---- multiply ----

  template <int kBlocks>
  __device__ __forceinline__ void load_fragments(Fragments<kBlocks>& fragments, int step) const {
    Left::left(slices.left_slice(), place, step, fragments.left);
    Right::right(slices.right_slice(), place, step, fragments.right);
  }

  template <int kFrom, int kTo, int kBlocks>
  __device__ __forceinline__ static void multiply(const Fragments<kBlocks>& fragments,
                                                  Sums<kBlocks>& sums) {
    multiply_rows<typename Job::In, kFrom, kTo>(fragments, sums);
  }

  // One slice; the first step's fragments are in registers, and the next slice's will be.
  template <int kBlocks>
  __device__ __forceinline__ void multiply_slice(Fragments<kBlocks> (&fragments)[2],
                                                 Sums<kBlocks>& sums) {
    load_fragments(fragments[1], 1);
    slices.template load_part<0, 3>();
    multiply<0, kBlocks>(fragments[0], sums);
    load_fragments(fragments[0], 2);
    slices.template load_part<1, 3>();
    multiply<0, kBlocks>(fragments[1], sums);
    load_fragments(fragments[1], 3);
    slices.template load_part<2, 3>();
    slices.finish_loads();
    multiply<0, kBlocks>(fragments[0], sums);
    multiply<0, 1>(fragments[1], sums);
    slices.wait_for_next();
    load_fragments(fragments[0], 0);
    multiply<1, kBlocks>(fragments[1], sums);
  }

  // The same for a slice of which only so many steps hold anything, 1 to 3.
  template <int kBlocks>
  __device__ __forceinline__ void multiply_short_slice(Fragments<kBlocks> (&fragments)[2],
                                                       Sums<kBlocks>& sums, int steps) {
    load_fragments(fragments[1], 1);
    slices.template load_part<0, 1>();
    slices.finish_loads();
    multiply<0, kBlocks>(fragments[0], sums);
    if (steps > 1) {
      load_fragments(fragments[0], 2);
      multiply<0, kBlocks>(fragments[1], sums);
    }
    if (steps > 2) multiply<0, kBlocks>(fragments[0], sums);
    slices.wait_for_next();
    load_fragments(fragments[0], 0);
  }

  // The same without a product.
  __device__ __forceinline__ void pass_slice() {
    slices.template load_part<0, 1>();
    slices.finish_loads();
    slices.wait_for_next();
  }

  // Steps of the tile's last slice, where they are fewer than a slice has and that counts; else 0.
  __device__ __forceinline__ int steps_of_short_end() const {
    if constexpr (!Job::kShortEnds) return 0;
    const int rest = job.reduction(shared.tile[current]) % kElementsPerSlice;
    return divide_up(rest, kElementsPerSlice / kSteps) % kSteps;
  }

  template <int kBlocks>
  __device__ __forceinline__ void run_tile() {
    Sums<kBlocks> sums = {};
    Fragments<kBlocks> fragments[2];
    const int num_slices = divide_up(job.reduction(shared.tile[current]), kElementsPerSlice);
    // Two more than are on their way: the next tile is claimed and found meanwhile.
    int left_over = max(num_slices, kLookahead + 2);
    const int to_pass = left_over - num_slices;
    const int last_whole = to_pass + (steps_of_short_end() > 0 ? 1 : 0);
    load_fragments(fragments[0], 0);
    for (; left_over > last_whole; --left_over) {
      look_ahead(left_over);
      multiply_slice(fragments, sums);
    }
    if (Job::kShortEnds && left_over > to_pass) {
      look_ahead(left_over--);
      multiply_short_slice(fragments, sums, steps_of_short_end());
    }
    for (; left_over > 0; --left_over) {
      look_ahead(left_over);
      pass_slice();
    }
    // A thread's place, found anew: nothing that only stores need waits in registers meanwhile.
    job.store(shared.tile[current], sums, Place::of<Job::Policy::kThreads>(ptx::thread_index()));
  }

  // run_tile for the tile's rows.
  template <int kBlocks>
  __device__ __forceinline__ void run_tile_of(int row_steps) {
    if constexpr (kBlocks > Job::kFewestBlocks) {
      if (row_steps < kBlocks) return run_tile_of<kBlocks - 1>(row_steps);
    }
    run_tile<kBlocks>();
  }

  __device__ __forceinline__ void run() {
    if (threadIdx.x < 32) {
      new (&shared.window[lane_index()]) typename Job::Window(job.window());
      find_tile(static_cast<int>(blockIdx.x), 0);
    }
    __syncthreads();
    start_loads(shared.tile[0]);
    for (int i = 0; i < kLookahead; ++i) {
      slices.template load_part<0, 1>();
      slices.finish_loads();
    }
    slices.wait();
    for (; !shared.tile[current].is_end(); current ^= 1) {
      run_tile_of<kTileRows / kRowStep>(job.row_steps(shared.tile[current]));
    }
    ptx::wait_copies<0>();
  }
};

// The body of a kernel; all threads. Returns what lies behind the stages.
template <class Job>
__device__ __forceinline__ const Shared<Job>& run_job(const Job& job, unsigned* claims,
                                                      uint8_t* shared_bytes) {
  const uint32_t begin = ptx::shared_address(shared_bytes);
  if (begin % 128 != 0) __trap();  // place.h counts on it
  auto& shared = *reinterpret_cast<Shared<Job>*>(shared_bytes + Mainloop<Job>::kStagesBytes);
  Mainloop<Job> loop{.job = job,
                     .shared = shared,
                     .claims = claims,
                     .slices = {begin, {job.left_pitch()}, {job.right_pitch()}}};
  loop.run();
  return shared;
}

// Dynamic shared memory of such a kernel.
template <class Job>
constexpr int kSharedBytes = Mainloop<Job>::kStagesBytes + static_cast<int>(sizeof(Shared<Job>));

}  // namespace gg::cuda::sm80
