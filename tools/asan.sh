#!/usr/bin/env bash
# Build the CPU kernels with AddressSanitizer and UBSan, separately from the ordinary build, and run
# the operator tests on them. Arguments are passed on to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

CVLIB_SANITIZE=1 CVLIB_CUDA=0 CVLIB_EXTENSION=1 .venv/bin/python setup.py -q build \
  --build-base asan-build --build-lib asan-build/lib >asan-build.log 2>&1 || {
  tail -n 40 asan-build.log
  exit 1
}

runtime=$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)
# PYTHONSAFEPATH keeps child processes of the tests from importing the ordinary build. Python itself
# leaks by design. libstdc++ is preloaded so that its exceptions are intercepted.
LD_PRELOAD=$runtime:$(gcc -print-file-name=libstdc++.so) \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
  PYTHONPATH=$PWD/asan-build/lib PYTHONSAFEPATH=1 \
  .venv/bin/pytest -q -p no:cacheprovider tests/ops "$@"
