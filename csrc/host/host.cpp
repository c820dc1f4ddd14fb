// Host-only functions on plain Python and NumPy values: cvlib._host.
#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

namespace {

#define CVLIB_STRING_OF(x) #x
#define CVLIB_STRING(x) CVLIB_STRING_OF(x)

py::dict build_info() {
  py::dict info;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["cvlib_version"] = CVLIB_STRING(CVLIB_VERSION);
  info["built_with_torch"] = CVLIB_STRING(CVLIB_BUILD_TORCH);
  info["cuda_architectures"] = CVLIB_STRING(CVLIB_CUDA_ARCHITECTURES);
  info["cpu_levels"] = "baseline avx2 avx512";
  return info;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Host-only functions of cvlib.";
  m.def("build_info", &build_info, "How the extension was built: compiler, torch, CUDA.");
}
