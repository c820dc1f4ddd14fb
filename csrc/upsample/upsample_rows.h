// Resizing of one row of an image and its transpose: the inner loops of the CPU kernels.
//
// Rows have `channels` interleaved values per pixel. With few channels, values are picked through
// tables: the sources of a register full of outputs lie in a window of two registers, unless the
// row shrinks to less than half, and one shuffle picks them. With many channels, pixels are mixed
// one by one with vectors along the channels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

#include "../interp_math.h"
#include "../parallel.h"

namespace cvlib {

// From this many interleaved channels on, vectors run along the channels.
constexpr int64_t kVectorChannels = 16;
// Values behind a row that a window may read.
constexpr int64_t kRowPadding = 48;
// Pixels with more readers gather them one by one.
constexpr int64_t kMaxTableReaders = 8;

// A register of values and one of as many indices of equal width.
template <class L, class T>
struct Vectors {
  static constexpr int64_t kLanes = L::kVectorBytes / static_cast<int64_t>(sizeof(T));
  // Without AVX2 there is no instruction that shuffles by variable indices.
  static constexpr bool kCanPick = L::kVectorBytes >= 32;
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Values __attribute__((vector_size(L::kVectorBytes)));
  typedef Index Indices __attribute__((vector_size(L::kVectorBytes)));

  static CVLIB_HOST_DEVICE void load(const T* from, Values& values) {
    std::memcpy(&values, from, sizeof(values));
  }

  // offsets[0..kLanes) as indices into the window that begins at `base`.
  static CVLIB_HOST_DEVICE void load_indices(const int32_t* offsets, int64_t base,
                                             Indices& indices) {
    typedef int32_t Offsets __attribute__((vector_size(sizeof(int32_t) * kLanes)));
    Offsets narrow;
    std::memcpy(&narrow, offsets, sizeof(narrow));
    indices = __builtin_convertvector(narrow, Indices) - static_cast<Index>(base);
  }

  template <class Value>
  static CVLIB_HOST_DEVICE void store(const Values& values, Value* to) {
    if constexpr (std::is_same_v<Value, T>) {
      std::memcpy(to, &values, sizeof(values));
    } else {
      T each[kLanes];
      std::memcpy(each, &values, sizeof(values));
      for (int64_t l = 0; l < kLanes; ++l) to[l] = static_cast<Value>(each[l]);
    }
  }
};

// dst = keep * a + weight * b, for n values.
template <class L, class Source, class Value, class T>
void mix_rows(L level, const Source* __restrict a, const Source* __restrict b, T keep, T weight,
              int64_t n, Value* __restrict dst) {
  for (int64_t j = 0; j < n; ++j) {
    const T mixed = multiply_add(level, weight, static_cast<T>(b[j]), keep * static_cast<T>(a[j]));
    dst[j] = static_cast<Value>(mixed);
  }
}

// The horizontal half of an interpolation: the sources of every output of a row.
template <class T>
struct RowStretch {
  int64_t width, channels;
  bool by_value;  // tables have one entry per value, otherwise per pixel
  std::unique_ptr<int32_t[]> low, high;
  std::unique_ptr<T[]> keep, weight;

  RowStretch(const ResizedAxis<T>& axis, int64_t channels_)
      : width(axis.out), channels(channels_), by_value(channels_ < kVectorChannels) {
    const int64_t each = by_value ? channels : 1, n = width * each;
    low.reset(new int32_t[n]), high.reset(new int32_t[n]);
    keep.reset(new T[n]), weight.reset(new T[n]);
    int64_t at = 0;
    for (int64_t x = 0; x < width; ++x) {
      const Tap<T> tap = tap_at(axis, x);
      for (int64_t c = 0; c < each; ++c, ++at) {
        low[at] = static_cast<int32_t>(tap.low * each + c);
        high[at] = static_cast<int32_t>(tap.high * each + c);
        keep[at] = T(1) - tap.weight;
        weight[at] = tap.weight;
      }
    }
  }

  // Pixels begin..end read the source pixels first_pixel(begin)..last_pixel(end).
  int64_t first_pixel(int64_t begin) const {
    return by_value ? low[begin * channels] / channels : low[begin];
  }
  int64_t last_pixel(int64_t end) const {
    return by_value ? high[end * channels - 1] / channels : high[end - 1];
  }
};

// Writes output pixels begin..end; `src` has room for a window behind the row.
template <class L, class T, class Value>
void stretch_by_value(L level, const T* __restrict src, const RowStretch<T>& stretch, int64_t begin,
                      int64_t end, Value* __restrict dst) {
  using V = Vectors<L, T>;
  const int64_t channels = stretch.channels, n = (end - begin) * channels;
  const int32_t* __restrict low = stretch.low.get() + begin * channels;
  const int32_t* __restrict high = stretch.high.get() + begin * channels;
  const T* __restrict keep = stretch.keep.get() + begin * channels;
  const T* __restrict weight = stretch.weight.get() + begin * channels;
  const auto one = [&](int64_t j) {
    dst[j] =
        static_cast<Value>(multiply_add(level, weight[j], src[high[j]], keep[j] * src[low[j]]));
  };
  int64_t j = 0;
  if constexpr (V::kCanPick) {
    for (; j + V::kLanes <= n; j += V::kLanes) {
      // Pixels increase along the row but channels do not, hence a slack of one pixel at each end.
      const int64_t base = low[j] < channels ? 0 : low[j] - channels + 1;
      if (high[j + V::kLanes - 1] + channels - base > 2 * V::kLanes) {
        for (int64_t l = 0; l < V::kLanes; ++l) one(j + l);
        continue;
      }
      typename V::Values first, second, kept, mixed;
      typename V::Indices from_low, from_high;
      V::load(src + base, first), V::load(src + base + V::kLanes, second);
      V::load_indices(low + j, base, from_low), V::load_indices(high + j, base, from_high);
      V::load(keep + j, kept), V::load(weight + j, mixed);
      mixed = mixed * __builtin_shuffle(first, second, from_high) +
              kept * __builtin_shuffle(first, second, from_low);
      V::store(mixed, dst + j);
    }
  }
  for (; j < n; ++j) one(j);
}

template <class L, class T, class Value>
void stretch_row(L level, const T* __restrict src, const RowStretch<T>& stretch, int64_t begin,
                 int64_t end, Value* __restrict dst) {
  if (stretch.by_value) return stretch_by_value(level, src, stretch, begin, end, dst);
  const int64_t channels = stretch.channels;
  for (int64_t x = begin; x < end; ++x) {
    mix_rows(level, src + stretch.low[x] * channels, src + stretch.high[x] * channels,
             stretch.keep[x], stretch.weight[x], channels, dst + (x - begin) * channels);
  }
}

// Mixes all four neighbours at once, for pixels of many channels in images that do not grow.
template <class L, class Source, class T, class Value>
void mix_pixels(L level, const Source* top, const Source* bottom, T keep, T weight,
                const RowStretch<T>& stretch, Value* dst) {
  const int64_t channels = stretch.channels;
  for (int64_t x = 0; x < stretch.width; ++x, dst += channels) {
    const Source* __restrict a = top + stretch.low[x] * channels;
    const Source* __restrict b = top + stretch.high[x] * channels;
    const Source* __restrict c = bottom + stretch.low[x] * channels;
    const Source* __restrict d = bottom + stretch.high[x] * channels;
    const T wa = keep * stretch.keep[x], wb = keep * stretch.weight[x];
    const T wc = weight * stretch.keep[x], wd = weight * stretch.weight[x];
    Value* __restrict to = dst;
    int64_t i = 0;
    if constexpr (std::is_same_v<Source, T> && std::is_same_v<Value, T>) {
      using V = Vectors<L, T>;
      for (; i + V::kLanes <= channels; i += V::kLanes) {
        typename V::Values va, vb, vc, vd;
        V::load(a + i, va), V::load(b + i, vb), V::load(c + i, vc), V::load(d + i, vd);
        const typename V::Values sum = (wa * va + wb * vb) + (wc * vc + wd * vd);
        V::store(sum, to + i);
      }
    }
    for (; i < channels; ++i) {
      T sum = wa * static_cast<T>(a[i]);
      sum = multiply_add(level, wb, static_cast<T>(b[i]), sum);
      sum = multiply_add(level, wc, static_cast<T>(c[i]), sum);
      to[i] = static_cast<Value>(multiply_add(level, wd, static_cast<T>(d[i]), sum));
    }
  }
}

// The transpose of an interpolation along one axis: the outputs that every input pixel gathers
// from.
template <class T>
struct AxisGather {
  int64_t size;
  // Pixel x is `high` of outputs begin[x] to middle[x], and `low` of middle[x] to middle[x + 1].
  std::unique_ptr<int64_t[]> begin, middle;
  std::unique_ptr<T[]> high_share, low_share;
  // The outputs as `readers` tables of `size` entries; 0 readers if not requested or too many.
  int64_t readers = 0;
  std::unique_ptr<int32_t[]> offset;
  std::unique_ptr<T[]> share;

  AxisGather(const ResizedAxis<T>& axis, bool wants_tables) : size(axis.in) {
    begin.reset(new int64_t[size]), middle.reset(new int64_t[size + 1]);
    high_share.reset(new T[axis.out]), low_share.reset(new T[axis.out]);
    for (int64_t x = 0; x < axis.out; ++x) {
      const Tap<T> tap = tap_at(axis, x);
      low_share[x] = share_of_low(tap), high_share[x] = share_of_high(tap);
    }
    int64_t most = 1;
    middle[0] = 0;
    for (int64_t x = 0; x < size; ++x) {
      middle[x + 1] = first_reader(axis, x + 1);
      // Shares of 0 are skipped, so that an infinite gradient does not become NaN elsewhere.
      begin[x] = x > 0 ? middle[x - 1] : 0;
      while (begin[x] < middle[x] && high_share[begin[x]] == T(0)) ++begin[x];
      most = std::max(most, middle[x + 1] - begin[x]);
    }
    if (wants_tables && most <= kMaxTableReaders) fill_tables(most);
  }

  void fill_tables(int64_t most) {
    readers = most;
    offset.reset(new int32_t[most * size]), share.reset(new T[most * size]);
    for (int64_t x = 0; x < size; ++x) {
      for (int64_t k = 0; k < most; ++k) {
        const int64_t j = begin[x] + k, at = k * size + x;
        const bool reads = j < middle[x + 1];
        offset[at] = static_cast<int32_t>(reads ? j : begin[x]);
        share[at] = !reads ? T(0) : j < middle[x] ? high_share[j] : low_share[j];
      }
    }
  }
};

// Adds K rows to two rows of sums, each with its shares. With `fresh`, `below` is overwritten.
template <int K, bool fresh, class L, class Source, class T>
void add_rows(L level, const Source* const* rows, const T* low, const T* high, int64_t n,
              T* __restrict sums, T* __restrict below) {
  for (int64_t j = 0; j < n; ++j) {
    T sum = sums[j], sum_below = fresh ? T(0) : below[j];
    for (int k = 0; k < K; ++k) {
      const T value = static_cast<T>(rows[k][j]);
      sum = multiply_add(level, low[k], value, sum);
      sum_below = multiply_add(level, high[k], value, sum_below);
    }
    sums[j] = sum, below[j] = sum_below;
  }
}

// sums += share * values, for n values.
template <class L, class Source, class T>
void add_scaled(L level, const Source* __restrict values, T share, int64_t n, T* __restrict sums) {
  for (int64_t j = 0; j < n; ++j) {
    sums[j] = multiply_add(level, share, static_cast<T>(values[j]), sums[j]);
  }
}

template <class L, class T, class Value>
void gather_value(L level, const T* __restrict src, const AxisGather<T>& gather, int64_t x,
                  Value* __restrict dst) {
  const int64_t middle = gather.middle[x], end = gather.middle[x + 1];
  T high = T(0), low = T(0);  // two independent chains of additions
  for (int64_t j = gather.begin[x]; j < middle; ++j) {
    high = multiply_add(level, gather.high_share[j], src[j], high);
  }
  for (int64_t j = middle; j < end; ++j) {
    low = multiply_add(level, gather.low_share[j], src[j], low);
  }
  dst[x] = static_cast<Value>(high + low);
}

// One channel: `src` has room for a window behind the row.
template <class L, class T, class Value>
void gather_values(L level, const T* __restrict src, const AxisGather<T>& gather,
                   Value* __restrict dst) {
  using V = Vectors<L, T>;
  const int64_t width = gather.size;
  int64_t x = 0;
  if constexpr (V::kCanPick) {
    const auto fits = [&] {
      return gather.begin[x + V::kLanes - 1] - gather.begin[x] < 2 * V::kLanes;
    };
    for (; gather.readers > 0 && x + V::kLanes <= width && fits(); x += V::kLanes) {
      typename V::Values sum = {};
      for (int64_t k = 0; k < gather.readers; ++k) {
        const int64_t at = k * width + x, base = gather.begin[x] + k;
        typename V::Values first, second, share;
        typename V::Indices from;
        V::load(src + base, first), V::load(src + base + V::kLanes, second);
        V::load_indices(gather.offset.get() + at, base, from);
        V::load(gather.share.get() + at, share);
        const typename V::Values more = sum + share * __builtin_shuffle(first, second, from);
        sum = share != T(0) ? more : sum;
      }
      V::store(sum, dst + x);
    }
  }
  for (; x < width; ++x) gather_value(level, src, gather, x, dst);
}

// `pixel` has room for the sums of one pixel's channels.
template <class L, class T, class Value>
void gather_row(L level, const T* __restrict src, const AxisGather<T>& gather, int64_t channels,
                T* __restrict pixel, Value* __restrict dst) {
  if (channels == 1) return gather_values(level, src, gather, dst);
  for (int64_t x = 0; x < gather.size; ++x) {
    for (int64_t c = 0; c < channels; ++c) pixel[c] = T(0);
    const int64_t middle = gather.middle[x], end = gather.middle[x + 1];
    for (int64_t j = gather.begin[x]; j < end; ++j) {
      const T share = j < middle ? gather.high_share[j] : gather.low_share[j];
      add_scaled(level, src + j * channels, share, channels, pixel);
    }
    for (int64_t c = 0; c < channels; ++c) dst[x * channels + c] = static_cast<Value>(pixel[c]);
  }
}

}  // namespace cvlib
