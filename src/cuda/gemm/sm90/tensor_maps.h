// Descriptors for the copy engine, encoded on the host for each call. Called by
// launch.cu and k_grouped_launch.cu.
#pragma once

#include "cuda/gemm/sm90/args.h"
#include "cuda/gemm/sm90/k_grouped_policy.h"
#include "cuda/gemm/sm90/policy.h"

namespace gg::cuda::sm90 {

// Fills args.tokens, args.weights and, where the variant needs it, args.out_pieces.
void encode_tensor_maps(MGroupedArgs& args, const GmmProblem& problem, const Variant& variant);

// Fills args.left, args.right and args.out.
void encode_tensor_maps(KGroupedArgs& args, const WgradRoles& roles, const TensorView& out);

}  // namespace gg::cuda::sm90
