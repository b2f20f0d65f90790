# GTest::gtest_main: an installed GoogleTest, else the distribution's package
# unpacked into the build folder without root, else GoogleTest's own release.
# If none can be had the build stops; tests are never skipped for want of it.
include_guard(GLOBAL)

find_package(GTest QUIET)

if(NOT GTest_FOUND)
  find_program(APT_GET apt-get)
  find_program(DPKG dpkg)
  set(unpacked "${PROJECT_BINARY_DIR}/googletest/debian")
  if(APT_GET AND DPKG)
    if(NOT EXISTS "${unpacked}/usr")
      message(STATUS "GoogleTest: unpacking the package libgtest-dev into the build folder")
      file(MAKE_DIRECTORY "${unpacked}")
      # A machine on which nobody ran `apt-get update` has no lists: make our own.
      set(own_lists "${unpacked}/apt")
      file(MAKE_DIRECTORY "${own_lists}/lists/partial" "${own_lists}/cache/archives/partial")
      execute_process(
        COMMAND sh -c "cd '${unpacked}' && { '${APT_GET}' download libgtest-dev || { \
          options='-o Dir::State::Lists=${own_lists}/lists -o Dir::Cache=${own_lists}/cache'; \
          '${APT_GET}' $options update && '${APT_GET}' $options download libgtest-dev; }; } && \
          '${DPKG}' -x libgtest-dev_*.deb ."
        TIMEOUT 180 RESULT_VARIABLE apt_status OUTPUT_QUIET ERROR_QUIET)
    endif()
    file(GLOB config_dirs "${unpacked}/usr/lib/*/cmake/GTest" "${unpacked}/usr/lib/cmake/GTest")
    if(config_dirs)
      # The folder is our own, so a remembered failure must not stand in the way.
      find_package(GTest QUIET CONFIG PATHS ${config_dirs} NO_DEFAULT_PATH)
    endif()
  endif()
endif()

if(NOT GTest_FOUND)
  set(archive "${PROJECT_BINARY_DIR}/googletest/googletest-1.15.2.tar.gz")
  if(NOT EXISTS "${archive}")
    message(STATUS "GoogleTest: downloading release 1.15.2")
    file(DOWNLOAD
         https://github.com/google/googletest/archive/refs/tags/v1.15.2.tar.gz "${archive}.part"
         STATUS download_status INACTIVITY_TIMEOUT 30 TIMEOUT 180)
    list(GET download_status 0 download_failed)
    if(download_failed)
      file(REMOVE "${archive}.part")
      message(FATAL_ERROR "The C++ tests need GoogleTest: it is not installed, apt-get could not "
              "download it, nor could it be fetched from GitHub. Install the package "
              "libgtest-dev (Debian, Ubuntu) or gtest-devel (Fedora).")
    endif()
    file(RENAME "${archive}.part" "${archive}")
  endif()
  include(FetchContent)
  set(INSTALL_GTEST OFF)
  set(BUILD_GMOCK OFF)
  FetchContent_Declare(googletest URL "${archive}")
  FetchContent_MakeAvailable(googletest)
endif()
