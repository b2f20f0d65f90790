// The version of the C++ API. CMake and the Python package read it from here.
#pragma once

#define GROUPED_GEMM_VERSION_MAJOR 2
#define GROUPED_GEMM_VERSION_MINOR 0
#define GROUPED_GEMM_VERSION_PATCH 0
// One number to compare: 20000 is 2.0.0.
#define GROUPED_GEMM_VERSION                                               \
  (GROUPED_GEMM_VERSION_MAJOR * 10000 + GROUPED_GEMM_VERSION_MINOR * 100 + \
   GROUPED_GEMM_VERSION_PATCH)
