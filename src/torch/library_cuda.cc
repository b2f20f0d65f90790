// The operators' registration for CUDA; schemas stand in library.cc.
#include <torch/csrc/stable/library.h>

#include "torch/ops.h"

STABLE_TORCH_LIBRARY_IMPL(grouped_gemm, CUDA, m) { GG_REGISTER_OPERATORS(m); }
