# Finds nvcc and the architectures to build for. Sets GG_CUDA_FOUND,
# GG_CUDA_VERSION, GG_CUDA_ARCH_LIST (CMake's notation) and
# GG_CUDA_ARCHS_BUILT (for people). No GPU is needed, except for `native`.
include_guard(GLOBAL)

# 75-virtual;90a-real to 75+PTX;90a: what `info` prints and plans are made from.
function(gg_archs_for_people result)
  list(TRANSFORM ARGN REPLACE "-real$" "")
  list(TRANSFORM ARGN REPLACE "-virtual$" "+PTX")
  set(${result} "${ARGN}" PARENT_SCOPE)
endfunction()

set(GG_CUDA_FOUND OFF)
set(minimum_toolkit 12.4)  # older ones are untried; C++20 came with 12.0

if(GG_CUDA)  # AUTO counts as true here
  set(problem "no working nvcc was found on PATH, in CUDACXX or /usr/local/cuda")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Any architecture will do to try the compiler; targets set their own.
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 75)
    endif()
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS minimum_toolkit)
      set(problem "nvcc ${CMAKE_CUDA_COMPILER_VERSION} at ${CMAKE_CUDA_COMPILER} is too old")
    else()
      set(GG_CUDA_FOUND ON)
    endif()
  endif()

  set(remedy "install the CUDA toolkit ${minimum_toolkit} or newer, or set CUDACXX=/path/to/nvcc, "
             "and configure afresh")
  list(JOIN remedy "" remedy)
  if(NOT GG_CUDA_FOUND AND GG_CUDA STREQUAL "AUTO")
    message(STATUS "grouped_gemm: CPU only, the CUDA kernels are left out: ${problem}. "
            "To have them, ${remedy}.")
  elseif(NOT GG_CUDA_FOUND)
    message(FATAL_ERROR "GG_CUDA=ON, but ${problem}. Please ${remedy}; or build with GG_CUDA=OFF.")
  endif()
endif()

if(GG_CUDA_FOUND)
  find_package(CUDAToolkit REQUIRED)
  set(GG_CUDA_VERSION "${CUDAToolkit_VERSION_MAJOR}.${CUDAToolkit_VERSION_MINOR}")

  if(GG_CUDA_ARCHS STREQUAL "fast")
    # PTX of 7.5 runs on whatever has no code of its own.
    set(GG_CUDA_ARCH_LIST 75-virtual 90a-real)
  elseif(GG_CUDA_ARCHS STREQUAL "release")
    set(GG_CUDA_ARCH_LIST 75-real 80-real 86-real 89-real 90a-real)
    if(GG_CUDA_VERSION VERSION_GREATER_EQUAL 12.9)
      list(APPEND GG_CUDA_ARCH_LIST 100f-real 120f-real 120-virtual)
    else()
      list(APPEND GG_CUDA_ARCH_LIST 90-virtual)
    endif()
    if(GG_CUDA_VERSION VERSION_LESS 13)
      list(PREPEND GG_CUDA_ARCH_LIST 70-real)
    endif()
  elseif(GG_CUDA_ARCHS STREQUAL "ptx")
    # Older generations' kernels for the driver to compile: to test them on a newer GPU.
    set(GG_CUDA_ARCH_LIST 75-virtual 80-virtual)
    if(GG_CUDA_VERSION VERSION_LESS 13)
      list(PREPEND GG_CUDA_ARCH_LIST 70-virtual)
    endif()
  elseif(GG_CUDA_ARCHS STREQUAL "native")
    set(GG_CUDA_ARCH_LIST ${CMAKE_CUDA_ARCHITECTURES_NATIVE})
    if(NOT GG_CUDA_ARCH_LIST MATCHES "^[0-9]")
      message(FATAL_ERROR "GG_CUDA_ARCHS=native needs a GPU on this machine, and none was found. "
              "Name the architectures instead, for example -DGG_CUDA_ARCHS=90a-real")
    endif()
    # Hopper's own instructions exist under 90a only.
    list(TRANSFORM GG_CUDA_ARCH_LIST REPLACE "^90(-real)?$" "90a-real")
  else()
    set(GG_CUDA_ARCH_LIST ${GG_CUDA_ARCHS})
  endif()

  gg_archs_for_people(GG_CUDA_ARCHS_BUILT ${GG_CUDA_ARCH_LIST})
  message(STATUS "grouped_gemm: CUDA ${GG_CUDA_VERSION} for ${GG_CUDA_ARCHS_BUILT}")

  # A fifth smaller, where this nvcc can.
  include(CheckCompilerFlag)
  check_compiler_flag(CUDA --compress-mode=size GG_NVCC_COMPRESS)
endif()

# Of GG_CUDA_ARCH_LIST, what kernels need that exist from compute capability `least` (80) on.
# Where PTX of something older serves every newer GPU, PTX of `least` has to, and serves alone:
# one compilation. Code for 8.0 runs on 8.6 and 8.9, too.
function(gg_archs_from least result)
  set(archs "")
  set(promises_newer OFF)
  foreach(arch IN LISTS GG_CUDA_ARCH_LIST)
    string(REGEX MATCH "^[0-9]+" number "${arch}")
    if(number GREATER_EQUAL least)
      list(APPEND archs "${arch}")
    elseif(NOT arch MATCHES "-real$")
      set(promises_newer ON)
    endif()
  endforeach()
  if(promises_newer)
    set(archs "${least}-virtual")
  elseif("80-real" IN_LIST archs OR "80" IN_LIST archs)
    list(FILTER archs EXCLUDE REGEX "^8[69]-real$")
  endif()
  set(${result} "${archs}" PARENT_SCOPE)
endfunction()

function(gg_add_cuda_objects name archs)
  gg_add_objects(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES
    CUDA_ARCHITECTURES "${archs}"
    CUDA_STANDARD 20
    CUDA_EXTENSIONS OFF
    CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(${name} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(${name} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>"
    "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${GG_NVCC_COMPRESS}>>:--compress-mode=size>")
endfunction()
