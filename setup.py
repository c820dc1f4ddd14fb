"""Build the three binaries of cvlib. All other package settings are in pyproject.toml.

Environment variables:
    CVLIB_CUDA=1|0     Whether to build the CUDA library. By default if nvcc and a torch with CUDA
                       are available. With 1, a failing CUDA build stops the installation.
    CVLIB_EXTENSION=0  Build nothing; cvlib then runs on its plain-PyTorch reference.
    CVLIB_EXTENSION=1  A failing build stops the installation; by default it only warns.
    CVLIB_SANITIZE=1   Build with AddressSanitizer and UBSan (make asan).
    TORCH_CUDA_ARCH_LIST, CUDA_HOME, MAX_JOBS: As for every torch extension.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
# The kernels use only headers of torch 2.11, the oldest version supported.
TORCH_TARGET_VERSION = "0x020b000000000000"
# Newer GPUs compile the PTX of the last one.
DEFAULT_CUDA_ARCHITECTURES = "8.0;9.0+PTX"


def read_version() -> str:
    text = (ROOT / "cvlib" / "_version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text).group(1)


def find_cuda_home() -> str | None:
    """Return the folder of the CUDA toolkit; `nvcc` on the PATH may be a wrapper outside it."""
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc")
    candidates = [Path("/usr/local/cuda")]
    if nvcc:
        candidates.append(Path(nvcc).resolve().parent.parent)
    homes = (home for home in candidates if (home / "include" / "cuda_runtime.h").is_file())
    return str(next(homes, "")) or None


def wants_cuda(cuda_home: str | None) -> bool:
    import torch

    choice = os.environ.get("CVLIB_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"setup.py: expected CVLIB_CUDA to be 0, 1 or unset, got {choice!r}")
    missing = []
    if shutil.which("nvcc") is None and cuda_home is None:
        missing.append("nvcc (install the CUDA toolkit or set CUDA_HOME)")
    if torch.version.cuda is None:
        missing.append("a torch built with CUDA (this one is CPU-only)")
    if choice == "1" and missing:
        raise SystemExit("setup.py: CVLIB_CUDA=1, but missing: " + "; ".join(missing))
    return choice != "0" and not missing


def compile_arguments() -> tuple[list[str], list[str]]:
    # No contraction: CPU and CUDA must round alike, or they would disagree at ties.
    flags = ["-O3", "-std=c++20", "-Wall", "-Wextra", "-Wno-unused-parameter", "-g0"]
    flags += ["-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    flags += [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
    links: list[str] = []
    if os.environ.get("CVLIB_SANITIZE") == "1":
        sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"]
        flags += sanitize
        links += ["-fsanitize=address,undefined"]
    return flags, links


def relative_sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def make_extensions() -> list[Extension]:
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    flags, links = compile_arguments()
    headers = relative_sources("**/*.h") + relative_sources("**/*.cuh")
    cuda_home = find_cuda_home()
    use_cuda = wants_cuda(cuda_home)
    extensions = [
        CppExtension(
            "cvlib._C",
            relative_sources("*/*_cpu.cpp"),
            depends=headers,
            extra_compile_args={"cxx": flags},
            extra_link_args=links,
            py_limited_api=True,
        )
    ]
    if use_cuda:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHITECTURES)
        nvcc = ["-O3", "-std=c++20", "-fmad=false", "-DUSE_CUDA", "--expt-relaxed-constexpr"]
        nvcc += ["--extended-lambda", f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
        extensions.append(
            CUDAExtension(
                "cvlib._C_cuda",
                relative_sources("*/*_cuda.cu"),
                depends=headers,
                extra_compile_args={"cxx": [*flags, "-DUSE_CUDA"], "nvcc": nvcc},
                library_dirs=[f"{cuda_home}/lib64"] if cuda_home else [],
                py_limited_api=True,
            )
        )
    extensions.append(host_extension(torch.__version__, use_cuda))
    return extensions


def host_extension(torch_version: str, use_cuda: bool) -> Extension:
    import pybind11

    architectures = os.environ["TORCH_CUDA_ARCH_LIST"].replace(";", " ") if use_cuda else "none"
    return Extension(
        "cvlib._host",
        relative_sources("host/*.cpp"),
        include_dirs=[pybind11.get_include()],
        language="c++",
        extra_compile_args=["-O2", "-std=c++17", "-fvisibility=hidden"],
        define_macros=[
            ("CVLIB_VERSION", read_version()),
            ("CVLIB_BUILD_TORCH", torch_version),
            ("CVLIB_CUDA_ARCHITECTURES", architectures),
        ],
    )


def make_build_command() -> type:
    from torch.utils.cpp_extension import BuildExtension

    class BuildOrWarn(BuildExtension):
        """Build command that only warns about failures, unless the user requires a build."""

        def build_extension(self, extension: Extension) -> None:
            try:
                super().build_extension(extension)
            except Exception as error:
                option = "CVLIB_CUDA" if extension.name == "cvlib._C_cuda" else "CVLIB_EXTENSION"
                if os.environ.get(option) == "1":
                    raise
                print(
                    f"\nWARNING: {extension.name} could not be built ({error}).\n"
                    "cvlib works without it, but much slower, on its plain-PyTorch reference. "
                    f"Install a C++20 compiler and try again; {option}=1 stops on failure.\n",
                    file=sys.stderr,
                )

        def copy_extensions_to_source(self) -> None:
            extensions = self.extensions
            self.extensions = [e for e in extensions if self.was_built(e)]
            super().copy_extensions_to_source()
            self.extensions = extensions

        def was_built(self, extension: Extension) -> bool:
            return Path(self.build_lib, self.get_ext_filename(extension.name)).is_file()

    return BuildOrWarn


def torch_is_importable() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


options: dict = {}
wants_extension = os.environ.get("CVLIB_EXTENSION") != "0"
if wants_extension and not torch_is_importable():
    if "1" in (os.environ.get("CVLIB_EXTENSION"), os.environ.get("CVLIB_CUDA")):
        raise SystemExit("setup.py: building cvlib's kernels needs torch; install it first")
    print("WARNING: torch is not installed, so cvlib's kernels are not built", file=sys.stderr)
    wants_extension = False
if wants_extension:
    home = find_cuda_home()
    if home:
        os.environ.setdefault("CUDA_HOME", home)
    options = {
        "ext_modules": make_extensions(),
        "cmdclass": {"build_ext": make_build_command()},
    }

setup(version=read_version(), **options)
