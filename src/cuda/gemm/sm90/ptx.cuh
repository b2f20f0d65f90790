// One PTX instruction a function, named after it; wgmma.mma_async itself is in
// wgmma.cuh. Shared-memory addresses are 32 bits. Used by this folder's kernels.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/common/ptx.cuh"

namespace gg::cuda::sm90::ptx {

using cuda::ptx::pack;
using cuda::ptx::shared_address;
using cuda::ptx::unpack;

// ---- mbarrier -----------------------------------------------------------------------------------
// All with their default semantics: release on arrival and acquire on wait,
// within the block. Forms with .cluster cost 25-40 % of a GEMM (H200, 2026-11-22,
// gemm_m prototype).

// mbarrier.init
__device__ __forceinline__ void mbarrier_init(const uint64_t& barrier, int num_arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(num_arrivals)
               : "memory");
}

// fence.mbarrier_init: the copy engine sees the barriers initialized.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// mbarrier.arrive
__device__ __forceinline__ void mbarrier_arrive(const uint64_t& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier))
               : "memory");
}

// mbarrier.arrive.expect_tx: one arrival, and so many bytes to come.
__device__ __forceinline__ void mbarrier_arrive_expect(const uint64_t& barrier, int num_bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
      "r"(num_bytes)
      : "memory");
}

// mbarrier.try_wait.parity, until it holds. NOTE: a parity tells one phase from
// the next only; nobody may wait for a phase two ahead of the barrier's.
__device__ __forceinline__ void mbarrier_wait(const uint64_t& barrier, uint32_t parity) {
  uint32_t is_done = 0;
  while (!is_done) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(is_done)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
  }
}

// ---- bulk tensor copies -------------------------------------------------------------------------
// No L2 eviction hints: they gain nothing, and an explicit evict_normal costs
// 1-12 % (H200, 2026-11-22, gemm_m prototype).

// prefetch.tensormap
__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// cp.async.bulk.tensor.2d, global to shared; counts its bytes at the barrier.
__device__ __forceinline__ void load_2d(uint32_t target, const CUtensorMap& map,
                                        const uint64_t& barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(target),
      "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1)
      : "memory");
}

// cp.async.bulk.tensor.3d, global to shared; counts its bytes at the barrier.
__device__ __forceinline__ void load_3d(uint32_t target, const CUtensorMap& map,
                                        const uint64_t& barrier, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(target),
      "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// cp.async.bulk.prefetch.tensor.3d, global to L2
__device__ __forceinline__ void prefetch_3d(const CUtensorMap& map, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(&map),
               "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}

// cp.async.bulk.tensor.3d, shared to global; joins this thread's open bulk group.
__device__ __forceinline__ void store_3d(const CUtensorMap& map, uint32_t source, int c0, int c1,
                                         int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
          &map),
      "r"(source), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// cp.reduce.async.bulk.tensor.3d.add, shared to global: each element is added
// once, rounded to nearest; joins this thread's open bulk group.
__device__ __forceinline__ void add_3d(const CUtensorMap& map, uint32_t source, int c0, int c1,
                                       int c2) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group "
      "[%0, {%2, %3, %4}], [%1];" ::"l"(&map),
      "r"(source), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// cp.async.bulk.tensor.4d, shared to global; joins this thread's open bulk group.
__device__ __forceinline__ void store_4d(const CUtensorMap& map, uint32_t source, int c0, int c1,
                                         int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::
          "l"(&map),
      "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// cp.async.bulk.commit_group
__device__ __forceinline__ void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// cp.async.bulk.wait_group.read: at most kPending of this thread's groups may
// still read shared memory.
template <int kPending>
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// cp.async.bulk.wait_group: all of this thread's groups are in global memory.
__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// fence.proxy.async: this thread's shared-memory stores before what the copy engine
// or wgmma reads afterwards. NOTE: waits for those stores; best a while after them.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- wgmma --------------------------------------------------------------------------------------

// wgmma.fence. NOTE: in the same basic block as the multiplications it precedes;
// elsewhere ptxas adds its own and serializes everything.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// wgmma.commit_group
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// wgmma.wait_group: at most kPending committed groups are still running.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// No instruction: keeps the compiler from reading an accumulator before the wait
// above it.
__device__ __forceinline__ void pin(float& accumulator) {
  asm volatile("" : "+f"(accumulator)::"memory");
}

// mov, which the compiler may not leave out.
__device__ __forceinline__ void move(float& target, float source) {
  asm volatile("mov.b32 %0, %1;" : "=f"(target) : "f"(source));
}

// ---- the rest -----------------------------------------------------------------------------------

// elect.sync: true in one lane of a whole warp, always the same one. NOTE: unlike
// lane == 0 it tells ptxas that one thread is active; otherwise it wraps each
// bulk copy in a loop over the lanes.
__device__ __forceinline__ bool elect() {
  uint32_t is_elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}"
      : "=r"(is_elected)
      :
      : "memory");
  return is_elected;
}

// setmaxnreg.inc
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// setmaxnreg.dec
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// bar.sync: all threads of some warps.
__device__ __forceinline__ void named_barrier(int id, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// stmatrix.x4.trans: four 8 x 8 matrices, transposed; lane l gives the address of
// row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices_transposed(uint32_t address, uint32_t m0,
                                                          uint32_t m1, uint32_t m2, uint32_t m3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(m0), "r"(m1), "r"(m2), "r"(m3)
      : "memory");
}

// stmatrix.x4: four 8 x 8 matrices; addresses as above.
__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t m0, uint32_t m1,
                                               uint32_t m2, uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}

// st.shared.v2.f32
__device__ __forceinline__ void store_pair(uint32_t address, float a, float b) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(a), "f"(b) : "memory");
}

// st.shared.f32
__device__ __forceinline__ void store_float(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// ld.shared.v2.f32
__device__ __forceinline__ float2 load_pair(uint32_t address) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(pair.x), "=f"(pair.y)
               : "r"(address)
               : "memory");
  return pair;
}

// ld.shared.b32
__device__ __forceinline__ uint32_t load_word(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

// st.shared.b32
__device__ __forceinline__ void store_word(uint32_t address, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

// st.shared.v4.b32
__device__ __forceinline__ void store_4_words(uint32_t address, const uint32_t (&w)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(w[0]), "r"(w[1]),
               "r"(w[2]), "r"(w[3])
               : "memory");
}
// The same of zeros.
__device__ __forceinline__ void store_16_zero_bytes(uint32_t address) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(address), "r"(0) : "memory");
}

}  // namespace gg::cuda::sm90::ptx
