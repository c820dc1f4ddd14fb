// Threads and instruction sets of the CPU kernels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace cvlib {

// Calls function(begin, end) on torch's threads; no slice is shorter than grain.
template <class Function>
void parallel_for(int64_t size, int64_t grain, const Function& function) {
  if (size <= 0) return;
  if (size <= grain) return function(int64_t{0}, size);
  torch::stable::parallel_for(0, size, grain, function);
}

enum class CpuLevel { kBaseline, kAvx2, kAvx512 };

// The best level of this machine, or a lower one that CVLIB_CPU_LEVEL asks for.
inline CpuLevel detect_cpu_level() {
#if defined(__x86_64__)
  CpuLevel level = CpuLevel::kBaseline;
  if (__builtin_cpu_supports("avx2")) level = CpuLevel::kAvx2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    level = CpuLevel::kAvx512;
  }
  const char* wanted = std::getenv("CVLIB_CPU_LEVEL");
  if (wanted == nullptr) return level;
  if (std::strcmp(wanted, "baseline") == 0) return CpuLevel::kBaseline;
  if (std::strcmp(wanted, "avx2") == 0 && level == CpuLevel::kAvx512) return CpuLevel::kAvx2;
  return level;
#else
  return CpuLevel::kBaseline;
#endif
}

inline CpuLevel cpu_level() {
  static const CpuLevel level = detect_cpu_level();
  return level;
}

// `flatten` inlines the whole kernel into a function that may use the wider instructions, so that
// the compiler vectorises one source three times and one binary runs everywhere.
#if defined(__x86_64__)
template <class Kernel>
__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512"),
               flatten)) void run_avx512(const Kernel& kernel) {
  kernel();
}

template <class Kernel>
__attribute__((target("avx2"), flatten)) void run_avx2(const Kernel& kernel) {
  kernel();
}
#endif

template <class Kernel>
__attribute__((flatten)) void run_baseline(const Kernel& kernel) {
  kernel();
}

// Runs kernel() compiled for this machine's instruction set.
template <class Kernel>
void with_best_instructions(const Kernel& kernel) {
#if defined(__x86_64__)
  if (cpu_level() == CpuLevel::kAvx512) return run_avx512(kernel);
  if (cpu_level() == CpuLevel::kAvx2) return run_avx2(kernel);
#endif
  run_baseline(kernel);
}

}  // namespace cvlib
