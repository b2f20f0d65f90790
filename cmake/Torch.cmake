# Finds the torch that the build's Python imports. Sets GG_TORCH_FOUND and
# GG_TORCH_VERSION. find_package(Torch) is avoided: it drags in the CUDA toolkit
# and C++ flags of torch's build, while the stable ABI needs headers only.
include_guard(GLOBAL)

set(GG_TORCH_FOUND OFF)
set(GG_TORCH_MINIMUM 2.10)  # the stable ABI that we target

if(GG_TORCH)  # AUTO counts as true here
  # scikit-build-core names its interpreter; a changed one is asked again.
  find_package(Python3 COMPONENTS Interpreter)
  set(torch_problem "no Python 3 was found")
  if(Python3_Interpreter_FOUND)
    # Without importing torch, which takes seconds.
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -c "
import importlib.util, pathlib, runpy, sys
spec = importlib.util.find_spec('torch')
if spec is None or spec.origin is None:
    sys.exit(1)
folder = pathlib.Path(spec.origin).resolve().parent
print(folder, runpy.run_path(str(folder / 'version.py'))['__version__'], sep=';', end='')"
      WORKING_DIRECTORY "${PROJECT_BINARY_DIR}"
      OUTPUT_VARIABLE torch_facts RESULT_VARIABLE torch_status ERROR_QUIET)
    if(NOT torch_status EQUAL 0)
      set(torch_problem "${Python3_EXECUTABLE} has no torch")
    else()
      list(GET torch_facts 0 GG_TORCH_DIR)
      list(GET torch_facts 1 GG_TORCH_VERSION)
      string(REGEX MATCH "^[0-9]+\\.[0-9]+" torch_release "${GG_TORCH_VERSION}")
      if(torch_release VERSION_LESS GG_TORCH_MINIMUM)
        set(torch_problem "${Python3_EXECUTABLE} has torch ${GG_TORCH_VERSION}")
      else()
        set(GG_TORCH_FOUND ON)
      endif()
    endif()
  endif()

  if(GG_TORCH_FOUND)
    message(STATUS "grouped_gemm: torch ${GG_TORCH_VERSION}")
  elseif(GG_TORCH STREQUAL "AUTO")
    message(STATUS "grouped_gemm: the C++ library only, the torch operators are left out "
            "(${torch_problem}; they need torch ${GG_TORCH_MINIMUM} or newer)")
  else()
    message(FATAL_ERROR
      "grouped_gemm: the torch operators need torch ${GG_TORCH_MINIMUM} or newer, but "
      "${torch_problem}.\n"
      "If torch is installed, pip has hidden it by building in isolation; install with\n"
      "    pip install scikit-build-core cmake ninja\n"
      "    pip install --no-build-isolation .\n"
      "If it is not, install torch first (pip install torch). "
      "The C++ library alone needs no torch: -DGG_TORCH=OFF.")
  endif()
endif()

# gg_add_torch_library(<target> <file name without lib and .so> <sources and objects>...)
function(gg_add_torch_library target file_name)
  add_library(${target} MODULE ${ARGN})
  target_link_libraries(${target} PRIVATE gg_flags Threads::Threads)
  set_target_properties(${target} PROPERTIES
    OUTPUT_NAME "${file_name}"
    PREFIX lib
    SUFFIX .so
    LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}"  # where $GG_LIBRARY_DIR points
    LINKER_LANGUAGE CXX
    CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    SKIP_BUILD_RPATH ON)  # torch is imported first, so its libraries are loaded
  target_compile_definitions(${target} PRIVATE TORCH_TARGET_VERSION=0x020a000000000000)
  target_include_directories(${target} SYSTEM PRIVATE "${GG_TORCH_DIR}/include")
  target_compile_options(${target} PRIVATE
    "-ffile-prefix-map=${GG_TORCH_DIR}/include/=")
  # --no-as-needed: CUDA's shims resolve through libtorch.so on a torch with CUDA,
  # though a CPU-only torch shows the linker no use of it.
  target_link_directories(${target} PRIVATE "${GG_TORCH_DIR}/lib")
  target_link_options(${target} PRIVATE
    -Wl,--exclude-libs,ALL "-Wl,-rpath-link,${GG_TORCH_DIR}/lib"
    $<$<NOT:$<BOOL:${GG_SANITIZE}>>:-Wl,-z,defs>
    $<$<BOOL:${GG_SANITIZE}>:-fsanitize=${GG_SANITIZE}>)
  target_link_libraries(${target} PRIVATE -Wl,--no-as-needed -ltorch -ltorch_cpu -Wl,--as-needed)
  add_dependencies(wheel_libraries ${target})
  install(TARGETS ${target} LIBRARY DESTINATION grouped_gemm/lib COMPONENT python EXCLUDE_FROM_ALL)
endfunction()
