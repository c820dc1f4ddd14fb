// Threads and instruction sets of the CPU kernels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "host_device.h"

namespace cvlib {

// Calls function(begin, end) on torch's threads, with at least `grain` items per call.
template <class Function>
void parallel_for(int64_t size, int64_t grain, const Function& function) {
  if (size <= 0) return;
  if (size <= grain) return function(int64_t{0}, size);
  torch::stable::parallel_for(0, size, grain, function);
}

enum class CpuLevel { kBaseline, kAvx2, kAvx512 };

// The best level of this machine, or a lower one set by CVLIB_CPU_LEVEL.
inline CpuLevel detect_cpu_level() {
#if defined(__x86_64__)
  CpuLevel level = CpuLevel::kBaseline;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) level = CpuLevel::kAvx2;
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

// `flatten` inlines the whole kernel into a function that may use wider instructions, so that one
// source is vectorised three times and one binary runs everywhere.
//
// A kernel may take a Level, with the properties it must know at compile time. The three functions
// below share no helper, because `flatten` does not reach through an always_inline function.
template <int kBytes, bool kFma>
struct Level {
  static constexpr int kVectorBytes = kBytes;  // of the widest registers
  static constexpr bool kHasFma = kFma;        // multiply_add is one instruction
};

template <class Kernel>
constexpr bool takes_level = std::is_invocable_v<const Kernel&, Level<16, false>>;

#if defined(__x86_64__)
template <class Kernel>
__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma,prefer-vector-width=512"),
               flatten)) void run_avx512(const Kernel& kernel) {
  if constexpr (takes_level<Kernel>) {
    kernel(Level<64, true>{});
  } else {
    kernel();
  }
}

template <class Kernel>
__attribute__((target("avx2,fma"), flatten)) void run_avx2(const Kernel& kernel) {
  if constexpr (takes_level<Kernel>) {
    kernel(Level<32, true>{});
  } else {
    kernel();
  }
}
#endif

template <class Kernel>
__attribute__((flatten)) void run_baseline(const Kernel& kernel) {
  if constexpr (takes_level<Kernel>) {
    kernel(Level<16, false>{});
  } else {
    kernel();
  }
}

// Runs kernel() or kernel(level) compiled for this machine's instruction set.
template <class Kernel>
void with_best_instructions(const Kernel& kernel) {
#if defined(__x86_64__)
  if (cpu_level() == CpuLevel::kAvx512) return run_avx512(kernel);
  if (cpu_level() == CpuLevel::kAvx2) return run_avx2(kernel);
#endif
  run_baseline(kernel);
}

// a * b + c, rounded once if the processor has FMA. Not for decisions: contraction is off
// everywhere else because levels and devices must decide alike.
template <class L, class T>
CVLIB_HOST_DEVICE T multiply_add(L, T a, T b, T c) {
  if constexpr (L::kHasFma) {
    return std::fma(a, b, c);
  } else {
    return a * b + c;
  }
}

}  // namespace cvlib
