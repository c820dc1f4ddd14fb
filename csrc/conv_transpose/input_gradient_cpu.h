// Gradient of the input of a transposed convolution on the CPU: the product of the kernel with the
// window of the output gradient that the kernel was added to, summed over output channels.
//
// Both are contiguous along a kernel row, so the sums run along it in registers, in tiles of three
// channels and several positions of a row in which every load serves several products. A sum is
// kept as one register of partial sums and folded once at the end. Blocks of a few kernel rows of
// one output channel are processed in turn for all positions of a thread's rows, so that the weight
// is read from memory once. Windows that extend beyond the output are copied with zeros around.
//
// Cost: inputs * outputs * kernel^2 multiplications per position, except for kernel rows outside
// the output, which are skipped. Memory: one register per input element of 16 rows.
#pragma once

#include <algorithm>
#include <memory>

#include "conv_shape.h"
#include "register_tile.h"

namespace cvlib {

constexpr int kChannelTile = 3;
constexpr int64_t kRowsAtOnce = 16;
constexpr int64_t kVectorsAtOnce = 64;  // per block of kernel rows

// Rows of a kernel, or of a window of the output gradient, in one or more planes.
template <class T>
struct Rows {
  const T* data;
  int64_t step, next_plane;
};

struct BlockSize {
  int64_t planes, rows, vectors;
};

template <int kChannels, int kPositions, class L, class T>
inline void multiply_windows(L level, Rows<T> taps, int64_t next_channel, const Rows<T>* windows,
                             BlockSize size, T* partial) {
  using V = typename Register<L, T>::Type;
  constexpr int kLanes = Register<L, T>::kLanes;
  V sums[kChannels][kPositions];
  std::memcpy(sums, partial, sizeof(sums));
  for (int64_t plane = 0; plane < size.planes; ++plane) {
    const T* from[kPositions];
#pragma GCC unroll 8
    for (int j = 0; j < kPositions; ++j) from[j] = windows[j].data + plane * windows[j].next_plane;
    const T* weight = taps.data + plane * taps.next_plane;
    for (int64_t row = 0; row < size.rows; ++row) {
      for (int64_t v = 0; v < size.vectors * kLanes; v += kLanes) {
        V factors[kChannels], values[kPositions];
#pragma GCC unroll 3
        for (int c = 0; c < kChannels; ++c) load(factors[c], weight + c * next_channel + v);
#pragma GCC unroll 8
        for (int j = 0; j < kPositions; ++j) load(values[j], from[j] + v);
#pragma GCC unroll 8
        for (int j = 0; j < kPositions; ++j) {
#pragma GCC unroll 3
          for (int c = 0; c < kChannels; ++c) {
            add_product(level, sums[c][j], factors[c], values[j]);
          }
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < kPositions; ++j) from[j] += windows[j].step;
      weight += taps.step;
    }
  }
  std::memcpy(partial, sums, sizeof(sums));
}

// The overload for a number of positions known at run time, 1 .. 7.
template <int kChannels, class L, class T>
inline void multiply_some_windows(L level, int64_t positions, Rows<T> taps, int64_t next_channel,
                                  const Rows<T>* windows, BlockSize size, T* partial) {
  switch (positions) {
    case 1:
      return multiply_windows<kChannels, 1>(level, taps, next_channel, windows, size, partial);
    case 2:
      return multiply_windows<kChannels, 2>(level, taps, next_channel, windows, size, partial);
    case 3:
      return multiply_windows<kChannels, 3>(level, taps, next_channel, windows, size, partial);
  }
  if constexpr (L::kVectorBytes == 64) {  // other levels have fewer registers
    switch (positions) {
      case 4:
        return multiply_windows<kChannels, 4>(level, taps, next_channel, windows, size, partial);
      case 5:
        return multiply_windows<kChannels, 5>(level, taps, next_channel, windows, size, partial);
      case 6:
        return multiply_windows<kChannels, 6>(level, taps, next_channel, windows, size, partial);
      case 7:
        return multiply_windows<kChannels, 7>(level, taps, next_channel, windows, size, partial);
    }
  }
}

// The gradient of one group and a few rows of input positions.
template <class L, class T>
struct InputGradient {
  static constexpr int kLanes = Register<L, T>::kLanes;
  static constexpr int64_t kMostPositions = L::kVectorBytes == 64 ? 7 : 3;

  L level;
  const ConvShape& s;
  const T* weight;  // weight of the group
  const T* grad;    // output gradient of all images
  int64_t group, first_row, end_row;

  int64_t vectors = (s.x.kernel + kLanes - 1) / kLanes;
  int64_t width = vectors * kLanes;  // kernel row padded with zeros
  int64_t rows_at_once = std::clamp<int64_t>(kVectorsAtOnce / vectors, 1, s.y.kernel);
  int64_t planes_at_once =
      std::clamp<int64_t>(kVectorsAtOnce / (vectors * rows_at_once), 1, s.outputs);
  int64_t channel_tiles = (s.inputs + kChannelTile - 1) / kChannelTile;
  int64_t position_tiles = (s.x.input + kMostPositions - 1) / kMostPositions;
  bool is_padded = width != s.x.kernel;

  std::unique_ptr<T[]> partial{
      new T[(end_row - first_row) * s.x.input * channel_tiles * kChannelTile * kLanes]()};
  std::unique_ptr<T[]> padded_taps{
      is_padded ? new T[s.inputs * planes_at_once * rows_at_once * width] : nullptr};
  std::unique_ptr<T[]> copies{new T[kMostPositions * planes_at_once * rows_at_once * width]};

  int64_t first_position(int64_t tile) const { return s.x.input * tile / position_tiles; }

  T* sums_of(int64_t row, int64_t first, int64_t channel_tile, int64_t positions) {
    const int64_t each = channel_tiles * kChannelTile;
    return partial.get() + (((row - first_row) * s.x.input + first) * each +
                            channel_tile * kChannelTile * positions) *
                               kLanes;
  }

  void add_all() {
    for (int64_t output = 0; output < s.outputs; output += planes_at_once) {
      const int64_t planes = std::min(planes_at_once, s.outputs - output);
      for (int64_t ky = 0; ky < s.y.kernel; ky += rows_at_once) {
        add_block(output, planes, ky, std::min(s.y.kernel, ky + rows_at_once));
      }
    }
  }

  // Adds kernel rows first_ky .. end_ky - 1 of some output channels, for all positions.
  void add_block(int64_t output, int64_t planes, int64_t first_ky, int64_t end_ky) {
    Rows<T> taps{weight + output * s.kernel_plane() + first_ky * s.x.kernel, s.x.kernel,
                 s.kernel_plane()};
    int64_t next_channel = s.outputs * s.kernel_plane();
    if (is_padded) {
      pad_taps(taps, planes, end_ky - first_ky);
      taps = {padded_taps.get(), width, rows_at_once * width};
      next_channel = planes_at_once * rows_at_once * width;
    }
    for (int64_t row = first_row; row < end_row; ++row) {
      if (!is_padded) prefetch_next_taps(taps, row);
      const int64_t image = row / s.y.input, top = row % s.y.input * s.y.stride - s.y.padding;
      const int64_t first = std::max(first_ky, -top), end = std::min(end_ky, s.y.output - top);
      if (first >= end) continue;
      const T* plane = grad + ((image * s.groups + group) * s.outputs + output) * s.output_plane();
      prefetch_next_rows(plane, top + first_ky + s.y.stride, end_ky - first_ky);
      const Rows<T> some{taps.data + (first - first_ky) * taps.step, taps.step, taps.next_plane};
      const BlockSize size{planes, end - first, vectors};
      for (int64_t tile = 0; tile < position_tiles; ++tile) {
        add_tile(row, tile, some, next_channel, plane + (top + first) * s.x.output, size);
      }
    }
  }

  // Prefetches the weight of the next block, of which each row of positions takes a share.
  void prefetch_next_taps(Rows<T> taps, int64_t row) const {
    const int64_t rows = end_row - first_row, at = row - first_row;
    for (int64_t c = s.inputs * at / rows; c < s.inputs * (at + 1) / rows; ++c) {
      prefetch(taps.data + c * s.outputs * s.kernel_plane() + rows_at_once * s.x.kernel,
               rows_at_once * s.x.kernel);
    }
  }

  // Prefetches the rows of the first plane that the next row of positions reads.
  void prefetch_next_rows(const T* plane, int64_t y, int64_t rows) const {
    const int64_t end = std::min(y + rows, s.y.output);
    y = std::max<int64_t>(0, y);
    if (y < end) prefetch(plane + y * s.x.output, (end - y) * s.x.output);
  }

  void pad_taps(Rows<T> taps, int64_t planes, int64_t rows) {
    for (int64_t c = 0; c < s.inputs; ++c) {
      for (int64_t p = 0; p < planes; ++p) {
        for (int64_t r = 0; r < rows; ++r) {
          const T* from = taps.data + (c * s.outputs + p) * s.kernel_plane() + r * taps.step;
          T* to = padded_taps.get() + ((c * planes_at_once + p) * rows_at_once + r) * width;
          for (int64_t x = 0; x < width; ++x) to[x] = x < s.x.kernel ? from[x] : T(0);
        }
      }
    }
  }

  void add_tile(int64_t row, int64_t tile, Rows<T> taps, int64_t next_channel, const T* grad_rows,
                BlockSize size) {
    const int64_t begin = first_position(tile), positions = first_position(tile + 1) - begin;
    Rows<T> windows[kMostPositions];
    for (int64_t j = 0; j < positions; ++j) {
      windows[j] = find_window((begin + j) * s.x.stride - s.x.padding, grad_rows, size,
                               copies.get() + j * planes_at_once * rows_at_once * width);
    }
    for (int64_t t = 0; t < channel_tiles; ++t) {
      T* sums = sums_of(row, begin, t, positions);
      const Rows<T> own{taps.data + t * kChannelTile * next_channel, taps.step, taps.next_plane};
      switch (std::min<int64_t>(kChannelTile, s.inputs - t * kChannelTile)) {
        case 1:
          multiply_some_windows<1>(level, positions, own, next_channel, windows, size, sums);
          break;
        case 2:
          multiply_some_windows<2>(level, positions, own, next_channel, windows, size, sums);
          break;
        default:
          multiply_some_windows<3>(level, positions, own, next_channel, windows, size, sums);
      }
    }
  }

  // `width` columns from column x on, in place or as a copy with zeros outside the output.
  Rows<T> find_window(int64_t x, const T* grad_rows, BlockSize size, T* copy) {
    if (x >= 0 && x + width <= s.x.output) return {grad_rows + x, s.x.output, s.output_plane()};
    const int64_t begin = std::clamp<int64_t>(-x, 0, width);
    const int64_t end = std::clamp<int64_t>(s.x.output - x, begin, width);
    for (int64_t p = 0; p < size.planes; ++p) {
      for (int64_t r = 0; r < size.rows; ++r) {
        const T* from = grad_rows + p * s.output_plane() + r * s.x.output;
        T* to = copy + (p * rows_at_once + r) * width;
        for (int64_t c = 0; c < width; ++c) to[c] = c >= begin && c < end ? from[x + c] : T(0);
      }
    }
    return {copy, width, rows_at_once * width};
  }

  void store_all(T* grad_input) {
    for (int64_t row = first_row; row < end_row; ++row) {
      const int64_t image = row / s.y.input, y = row % s.y.input;
      T* channel = grad_input + (image * s.groups + group) * s.inputs * s.input_plane();
      for (int64_t tile = 0; tile < position_tiles; ++tile) {
        const int64_t begin = first_position(tile), positions = first_position(tile + 1) - begin;
        for (int64_t c = 0; c < s.inputs; ++c) {
          const T* sums = sums_of(row, begin, c / kChannelTile, positions) +
                          c % kChannelTile * positions * kLanes;
          for (int64_t j = 0; j < positions; ++j) {
            typename Register<L, T>::Type vector;
            load(vector, sums + j * kLanes);
            channel[c * s.input_plane() + y * s.x.input + begin + j] = sum_of_lanes<T>(vector);
          }
        }
      }
    }
  }
};

template <class T>
void conv_transpose_input_gradient(const T* grad, const T* weight, const ConvShape& s,
                                   T* grad_input) {
  parallel_for(s.batch * s.y.input, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += kRowsAtOnce) {
      for (int64_t group = 0; group < s.groups; ++group) {
        with_best_instructions([&](auto level) {
          InputGradient<decltype(level), T> task{
              level,
              s,
              weight + group * s.inputs * s.outputs * s.kernel_plane(),
              grad,
              group,
              row,
              std::min(end, row + kRowsAtOnce)};
          task.add_all();
          task.store_all(grad_input);
        });
      }
    }
  });
}

}  // namespace cvlib
