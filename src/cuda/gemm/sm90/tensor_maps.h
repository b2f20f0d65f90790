// Descriptors for the copy engine, encoded on the host for each call. Called by
// launch.cu.
#pragma once

#include "cuda/gemm/sm90/args.h"
#include "cuda/gemm/sm90/policy.h"

namespace gg::cuda::sm90 {

// Fills args.tokens, args.weights and, where the variant needs it, args.out_pieces.
void encode_tensor_maps(MGroupedArgs& args, const GmmProblem& problem, const Variant& variant);

}  // namespace gg::cuda::sm90
