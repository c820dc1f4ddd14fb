// Register vectors for kernels whose sums must stay in registers: the compiler's vectoriser keeps
// one row of sums, while a tile of rows and columns must be written out.
#pragma once

#include <cstdint>
#include <cstring>

#include "../parallel.h"

namespace cvlib {

// As wide as the registers of the level; on other machines the compiler splits it.
template <class L, class T>
struct Register {
  typedef T Type __attribute__((vector_size(L::kVectorBytes)));
  static constexpr int kLanes = L::kVectorBytes / sizeof(T);
};

inline int64_t vector_bytes() {
  if (cpu_level() == CpuLevel::kAvx512) return 64;
  return cpu_level() == CpuLevel::kAvx2 ? 32 : 16;
}

template <class V, class T>
inline void load(V& vector, const T* from) {
  std::memcpy(&vector, from, sizeof(V));
}

template <class V, class T>
inline void store(T* to, const V& vector) {
  std::memcpy(to, &vector, sizeof(V));
}

// sum += a * b, lane by lane; the loop becomes one instruction.
template <class L, class V>
inline void add_product(L level, V& sum, const V& a, const V& b) {
  if constexpr (L::kHasFma) {
#pragma GCC unroll 1
    for (unsigned l = 0; l < sizeof(V) / sizeof(sum[0]); ++l) {
      sum[l] = multiply_add(level, a[l], b[l], sum[l]);
    }
  } else {
    sum += a * b;
  }
}

template <class V, class T>
inline void broadcast(V& vector, T value) {
  for (unsigned l = 0; l < sizeof(V) / sizeof(T); ++l) vector[l] = value;
}

// Prefetches memory that will be read soon; the processor does not predict strided rows.
template <class T>
inline void prefetch(const T* from, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i, 0, 2);
}

// The sum over the lanes, as a tree.
template <class T, class V>
inline T sum_of_lanes(const V& vector) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  T lanes[kLanes];
  store(lanes, vector);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

}  // namespace cvlib
