# What a user may choose, and the flags every object is compiled with.
include_guard(GLOBAL)

set(GG_CUDA AUTO CACHE STRING "Build the CUDA kernels: ON, OFF, or AUTO (where nvcc is found)")
set_property(CACHE GG_CUDA PROPERTY STRINGS AUTO ON OFF)
set(GG_CUDA_ARCHS fast CACHE STRING
    "GPU architectures: fast (quick to compile, runs everywhere), release, native, ptx, or a CMake list")
set(torch_default OFF)
if(PROJECT_IS_TOP_LEVEL)
  set(torch_default AUTO)
endif()
set(GG_TORCH ${torch_default} CACHE STRING
    "Build the torch operators: ON, OFF, or AUTO (where Python has torch)")
set_property(CACHE GG_TORCH PROPERTY STRINGS AUTO ON OFF)
option(GG_BUILD_TESTS "Build the C++ tests (target: tests)" OFF)
option(GG_BUILD_EXAMPLES "Build examples/cpp" OFF)
option(GG_WERROR "Turn compiler warnings into errors" OFF)
option(GG_UNTESTED_PLATFORM "Try to build where the library is not tested" OFF)
set(GG_SANITIZE "" CACHE STRING "Sanitizers for host code, for example address,undefined")

foreach(choice IN ITEMS GG_CUDA GG_TORCH)
  string(TOUPPER "${${choice}}" value)
  if(NOT value MATCHES "^(AUTO|ON|OFF|TRUE|FALSE|1|0|YES|NO)$")
    message(FATAL_ERROR "${choice} got '${${choice}}'; needs ON, OFF or AUTO")
  endif()
endforeach()

# Tested on Linux x86-64 only. Elsewhere we say so instead of failing midway.
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux" AND NOT GG_UNTESTED_PLATFORM)
  message(FATAL_ERROR "grouped_gemm builds on Linux; this is ${CMAKE_SYSTEM_NAME}, where nobody "
          "has tested it. To try the CPU part all the same: -DGG_UNTESTED_PLATFORM=ON -DGG_CUDA=OFF")
elseif(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  message(WARNING "grouped_gemm is tested on x86-64; on ${CMAKE_SYSTEM_PROCESSOR} the CPU part "
          "is plain C++20 and should build, but nobody has tested it. Run the tests.")
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
  message(FATAL_ERROR "grouped_gemm needs g++ 11 or newer; found ${CMAKE_CXX_COMPILER_VERSION}")
endif()

get_property(multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT multi_config)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

# ccache, where present. Base directory and no hashed working directory: then a
# fresh clone elsewhere finds the objects of the last one.
find_program(GG_CCACHE ccache)
mark_as_advanced(GG_CCACHE)
if(GG_CCACHE AND PROJECT_IS_TOP_LEVEL)
  set(launcher env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=1 "${GG_CCACHE}")
  foreach(language IN ITEMS CXX CUDA)
    if(NOT CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER ${launcher})
    endif()
  endforeach()
endif()

# Flags of our own objects; never seen by those who link the library.
add_library(gg_flags INTERFACE)
target_compile_features(gg_flags INTERFACE cxx_std_20)
target_include_directories(gg_flags INTERFACE "${PROJECT_SOURCE_DIR}/include"
                                              "${PROJECT_SOURCE_DIR}/src")

# No fused multiply-adds behind the code's back: CPU and GPU sums agree bit for bit.
set(warnings -Wall -Wextra -ffp-contract=off $<$<BOOL:${GG_WERROR}>:-Werror>)
# Keeps the builder's folders out of binaries and error texts.
set(prefix_maps "-ffile-prefix-map=${PROJECT_SOURCE_DIR}/="
                "-ffile-prefix-map=${PROJECT_BINARY_DIR}/=build/")
target_compile_options(gg_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${warnings};${prefix_maps}>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall;-Xcompiler=-Wextra>")
# For nvcc ccache hashes the maps as they stand, so that no other clone would hit;
# but it also makes every path relative, which serves the same end.
if(NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  list(TRANSFORM prefix_maps PREPEND "-Xcompiler=")
  target_compile_options(gg_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${prefix_maps}>")
endif()
if(GG_SANITIZE)
  target_compile_options(gg_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${GG_SANITIZE};-fno-sanitize-recover=all>"
    "$<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer;-g>")
endif()

# Objects that may go into a shared library and export nothing.
function(gg_add_objects name)
  add_library(${name} OBJECT ${ARGN})
  target_link_libraries(${name} PRIVATE gg_flags Threads::Threads)
  set_target_properties(${name} PROPERTIES
    POSITION_INDEPENDENT_CODE ON
    CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden
    CUDA_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
endfunction()

# grouped_gemm_build.h: what `info` and errors say about this build. One per
# target, since one build directory holds a library with CUDA and one without.
function(gg_write_build_header target archs cuda_version torch_version)
  set(GG_BUILT_CUDA_ARCHS "${archs}")
  set(GG_BUILT_CUDA_VERSION "${cuda_version}")
  set(GG_BUILT_TORCH_VERSION "${torch_version}")
  set(GG_BUILT_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
  set(folder "${PROJECT_BINARY_DIR}/generated/${target}")
  configure_file("${PROJECT_SOURCE_DIR}/cmake/grouped_gemm_build.h.in"
                 "${folder}/grouped_gemm_build.h" @ONLY)
  target_include_directories(${target} PRIVATE "${folder}")
endfunction()
