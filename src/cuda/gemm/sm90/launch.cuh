// Defines launch_m_grouped. Included by inst/*.cu, each of which instantiates it once.
#pragma once

#include <type_traits>

#include "cuda/common/dependent_launch.h"
#include "cuda/gemm/sm90/launch.h"
#include "cuda/gemm/sm90/m_grouped.cuh"
#include "cuda/gemm/sm90/thread_store.cuh"

namespace gg::cuda::sm90 {

template <class Types>
using FeaturesOf = std::conditional_t<Types::kWeightsByRegisters, FeaturesByBanks, FeaturesInOrder>;

template <class Policy, class Types, typename Out, StoreBy kStore>
using EpilogueOf =
    std::conditional_t<kStore == StoreBy::kCopyEngine,
                       CopyEngineStore<Out, Policy::kTileTokens, FeaturesOf<Types>>,
                       std::conditional_t<std::is_same_v<Out, float>,
                                          ThreadStoreFloat<FeaturesOf<Types>>, ThreadStore<Out>>>;

template <typename In, TileShape kTile>
using PolicyOf = std::conditional_t<
    std::is_same_v<In, float>, Tf32Policy,
    std::conditional_t<kTile == TileShape::kGeneral, GeneralPolicy,
                       std::conditional_t<kTile == TileShape::kNarrow, NarrowPolicy, DeepPolicy>>>;

template <typename In, WeightMajor kMajor, typename Out, StoreBy kStore, TileShape kTile>
void launch_m_grouped(const MGroupedArgs& args, unsigned num_blocks, cudaStream_t stream) {
  using Policy = PolicyOf<In, kTile>;
  using Types = OperandTypes<In, kMajor>;
  using Memory = Shared<Policy>;
  static_assert(sizeof(Memory) <= Policy::kSharedBytes);
  const auto kernel = m_grouped_gemm<Policy, Types, EpilogueOf<Policy, Types, Out, kStore>>;
  launch("gmm", kernel, {num_blocks, kThreadsOf<Policy>, sizeof(Memory), /*dependent=*/true},
         stream, args);
}

}  // namespace gg::cuda::sm90
