# cmake --install: headers, the static library and find_package(grouped_gemm).
# The torch libraries belong to the wheel (component `python`), not to this.
include_guard(GLOBAL)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/grouped_gemm")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/grouped_gemm" COMPONENT cpp
        DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(TARGETS grouped_gemm EXPORT grouped_gemm_targets COMPONENT cpp
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT grouped_gemm_targets NAMESPACE grouped_gemm:: COMPONENT cpp
        FILE grouped_gemm-targets.cmake DESTINATION "${package_dir}")

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/grouped_gemm-config.cmake.in"
  "${PROJECT_BINARY_DIR}/grouped_gemm-config.cmake" INSTALL_DESTINATION "${package_dir}"
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/grouped_gemm-config-version.cmake"
                                 COMPATIBILITY SameMajorVersion)
install(FILES "${PROJECT_BINARY_DIR}/grouped_gemm-config.cmake"
              "${PROJECT_BINARY_DIR}/grouped_gemm-config-version.cmake"
        COMPONENT cpp DESTINATION "${package_dir}")
