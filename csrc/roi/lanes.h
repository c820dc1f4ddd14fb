// Vectors of channels: a line holds one pixel of as many channels as fill 64 bytes, which is a
// cache line and the widest register. Contiguous maps are transposed into lines and back, in tiles
// of registers.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "../parallel.h"

namespace cvlib {

constexpr int kLineBytes = 64;

template <class T>
constexpr int kLanes = kLineBytes / static_cast<int>(sizeof(T));

template <class T, int kBytes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kBytes)));
  // In memory, with the alignment of T.
  typedef T Loose __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
};

// Integers as wide as T: results of vector comparisons and indices of shuffles.
template <class T>
using LaneIndex = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// One line, in as many registers as the level needs.
template <class T, class L>
struct Line {
  static constexpr int kParts = kLineBytes / L::kVectorBytes;
  static constexpr int kPartLanes = L::kVectorBytes / static_cast<int>(sizeof(T));
  using Vector = typename VectorOf<T, L::kVectorBytes>::Type;
  using Loose = typename VectorOf<T, L::kVectorBytes>::Loose;

  Vector part[kParts] = {};

  static CVLIB_HOST_DEVICE Line load(const T* source) {
    Line line;
    for (int p = 0; p < kParts; ++p) {
      line.part[p] = *reinterpret_cast<const Loose*>(source + p * kPartLanes);
    }
    return line;
  }
  CVLIB_HOST_DEVICE void store(T* target) const {
    for (int p = 0; p < kParts; ++p) *reinterpret_cast<Loose*>(target + p * kPartLanes) = part[p];
  }
  // this += weight * other, rounded twice for equal bits at every level.
  CVLIB_HOST_DEVICE void add(T weight, const Line& other) {
    for (int p = 0; p < kParts; ++p) part[p] += other.part[p] * weight;
  }
};

// One step of transposing a tile: swaps blocks of kHalf x kHalf values across the diagonal.
template <int kHalf, class Indices, class Vector, int... kLane>
CVLIB_HOST_DEVICE void swap_blocks(Vector* rows, std::integer_sequence<int, kLane...>) {
  constexpr int kSide = sizeof...(kLane);
  const Indices low = {(kLane & kHalf ? kSide + kLane - kHalf : kLane)...};
  const Indices high = {(kLane & kHalf ? kSide + kLane : kLane + kHalf)...};
  for (int i = 0; i < kSide; ++i) {
    if (i & kHalf) continue;
    const Vector a = rows[i], b = rows[i + kHalf];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + kHalf] = __builtin_shuffle(a, b, high);
  }
}

// A square tile of registers.
template <class T, class L>
CVLIB_HOST_DEVICE void transpose_tile(const T* source, int64_t source_stride, T* target,
                                      int64_t target_stride) {
  constexpr int kSide = L::kVectorBytes / static_cast<int>(sizeof(T));
  using Vector = typename VectorOf<T, L::kVectorBytes>::Type;
  using Loose = typename VectorOf<T, L::kVectorBytes>::Loose;
  using Indices = typename VectorOf<LaneIndex<T>, L::kVectorBytes>::Type;
  constexpr auto kAll = std::make_integer_sequence<int, kSide>{};
  Vector rows[kSide];
  for (int i = 0; i < kSide; ++i) {
    rows[i] = *reinterpret_cast<const Loose*>(source + i * source_stride);
  }
  if constexpr (kSide > 8) swap_blocks<8, Indices>(rows, kAll);
  if constexpr (kSide > 4) swap_blocks<4, Indices>(rows, kAll);
  if constexpr (kSide > 2) swap_blocks<2, Indices>(rows, kAll);
  swap_blocks<1, Indices>(rows, kAll);
  for (int i = 0; i < kSide; ++i) {
    *reinterpret_cast<Loose*>(target + i * target_stride) = rows[i];
  }
}

// target[i * target_stride + j] = source[j * source_stride + i] for i < height and j < width, in
// tiles. The last tiles overlap those before; matrices narrower than a tile go value by value.
template <class T, class L>
void transpose(const T* source, int64_t source_stride, int64_t width, int64_t height, T* target,
               int64_t target_stride) {
  constexpr int64_t kSide = L::kVectorBytes / static_cast<int64_t>(sizeof(T));
  if (width < kSide || height < kSide) {
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = 0; j < width; ++j)
        target[i * target_stride + j] = source[j * source_stride + i];
    }
    return;
  }
  for (int64_t i = 0; i < height; i += kSide) {
    const int64_t row = i + kSide <= height ? i : height - kSide;
    for (int64_t j = 0; j < width; j += kSide) {
      const int64_t column = j + kSide <= width ? j : width - kSide;
      transpose_tile<T, L>(source + column * source_stride + row, source_stride,
                           target + row * target_stride + column, target_stride);
    }
  }
}

// Uninitialised memory for lines.
template <class T>
class LineBuffer {
 public:
  explicit LineBuffer(int64_t lines)
      : memory_(static_cast<T*>(::operator new(static_cast<size_t>(lines) * kLineBytes,
                                               std::align_val_t{kLineBytes}))) {}
  T* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const { ::operator delete(memory, std::align_val_t{kLineBytes}); }
  };
  std::unique_ptr<T, Free> memory_;
};

}  // namespace cvlib
