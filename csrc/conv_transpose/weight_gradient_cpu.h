// Gradient of the weight of a transposed convolution on the CPU: for each tap, the sum over images
// and input positions of the input times the output gradient that the tap has reached.
//
// A task owns an output channel and a few kernel rows, for all input channels. It copies the rows
// of the output gradient that these kernel rows reach, with zeros around, and then sums tiles of
// several input channels and a few registers of taps over all positions: one broadcast of the input
// and one load of the gradient serve several products. The order of every sum is fixed, whatever
// the number of threads.
//
// Cost: inputs * outputs * kernel^2 multiplications per position. Memory: a copy of the input, and
// per task some rows of the output gradient of one image.
#pragma once

#include <algorithm>
#include <memory>

#include "conv_shape.h"
#include "register_tile.h"

namespace cvlib {

// The sums of a tile take all registers except those of the factors.
template <int kBytes>
struct WeightTile {
  static constexpr int kChannels = kBytes == 64 ? 6 : 5;
  static constexpr int kVectors = kBytes == 64 ? 4 : 2;
};

// Phases of kernel rows per task: enough taps for a tile of registers, but not more, so that the
// rows of the gradient stay in L1.
inline int64_t phases_at_once(const ConvShape& s) {
  constexpr int64_t kTaps = 64;
  const int64_t taps = s.y.overlap() * s.x.kernel;
  return std::min((kTaps + taps - 1) / taps, std::min(s.y.stride, s.y.kernel));
}

// Channels in equal shares of at most `most` channels.
struct Shares {
  int64_t count, parts;
  Shares(int64_t count, int64_t most) : count(count), parts((count + most - 1) / most) {}
  int64_t begin(int64_t part) const { return count * part / parts; }
  int64_t size(int64_t part) const { return begin(part + 1) - begin(part); }
};

// The input with the channels of each tile innermost.
template <class T>
std::unique_ptr<T[]> transpose_input(const T* input, const ConvShape& s, const Shares& shares) {
  const int64_t plane = s.input_plane(), groups = s.batch * s.groups;
  std::unique_ptr<T[]> result(new T[groups * s.inputs * plane]);
  parallel_for(groups * shares.parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % shares.parts, channels = shares.size(part);
      const int64_t start = (task / shares.parts * s.inputs + shares.begin(part)) * plane;
      for (int64_t c = 0; c < channels; ++c) {
        const T* from = input + start + c * plane;
        T* to = result.get() + start + c;
        for (int64_t p = 0; p < plane; ++p) to[p * channels] = from[p];
      }
    }
  });
  return result;
}

// Rows of the output gradient with zeros around them, and the columns of taps to sum.
template <class T>
struct GradientRows {
  const T* data;
  int64_t next_row, stride;  // from one input row to the next, from one position to the next
};

template <int kChannels, int kVectors, class L, class T>
inline void sum_positions(L level, const T* input, GradientRows<T> rows, const int64_t* columns,
                          int64_t first_y, int64_t end_y, int64_t width, T* partial) {
  using V = typename Register<L, T>::Type;
  V sums[kChannels][kVectors];
  std::memcpy(sums, partial, sizeof(sums));
  for (int64_t y = first_y; y < end_y; ++y) {
    const T* own = input + y * width * kChannels;
    const T* from = rows.data + y * rows.next_row;
    for (int64_t x = 0; x < width; ++x, own += kChannels, from += rows.stride) {
      V values[kVectors], factor;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) load(values[v], from + columns[v]);
#pragma GCC unroll 6
      for (int c = 0; c < kChannels; ++c) {
        broadcast(factor, own[c]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) add_product(level, sums[c][v], factor, values[v]);
      }
    }
  }
  std::memcpy(partial, sums, sizeof(sums));
}

// The gradient of one output channel of a group and kernel rows ry + ti * stride, for up to
// phases_at_once adjacent ry.
template <class L, class T>
struct WeightGradient {
  static constexpr int kLanes = Register<L, T>::kLanes;
  static constexpr int kTile = WeightTile<L::kVectorBytes>::kVectors;

  L level;
  const ConvShape& s;
  const Shares& shares;
  int64_t group, output, first_ry, end_ry;

  int64_t overlap = s.y.overlap();
  int64_t vectors = (s.x.kernel + kLanes - 1) / kLanes;
  int64_t gradient_rows = s.y.input + overlap - 1;
  int64_t next_row = (s.x.input - 1) * s.x.stride + vectors * kLanes;
  int64_t column_tiles = ((end_ry - first_ry) * overlap * vectors + kTile - 1) / kTile;

  std::unique_ptr<T[]> rows{new T[(end_ry - first_ry) * gradient_rows * next_row]};
  std::unique_ptr<T[]> partial{new T[column_tiles * kTile * s.inputs * kLanes]()};

  // A register of taps: its kernel row and its first tap in it.
  struct Column {
    int64_t ry, ti, first_tap;
  };

  // Columns after the last one repeat it.
  Column column(int64_t index) const {
    index = std::min(index, (end_ry - first_ry) * overlap * vectors - 1);
    return {first_ry + index / (overlap * vectors), index / vectors % overlap,
            index % vectors * kLanes};
  }

  // Row r of phase ry is output row r * stride + ry - padding.
  void copy_rows(const T* plane) {
    T* to = rows.get();
    const int64_t left = std::min(s.x.padding, next_row);
    for (int64_t ry = first_ry; ry < end_ry; ++ry) {
      for (int64_t r = 0; r < gradient_rows; ++r, to += next_row) {
        const int64_t y = r * s.y.stride + ry - s.y.padding;
        const bool is_inside = y >= 0 && y < s.y.output;
        const int64_t end = is_inside ? std::min(left + s.x.output, next_row) : left;
        std::fill_n(to, left, T(0));
        if (is_inside) {
          std::copy_n(plane + y * s.x.output, end - left, to + left);
          prefetch(plane + (y + end_ry - first_ry) * s.x.output, s.x.output);  // for the next task
        }
        std::fill(to + end, to + next_row, T(0));
      }
    }
  }

  template <int kChannels>
  void sum_tile(const T* input, int64_t tile, T* sums) {
    int64_t columns[kTile], first_y = s.y.input, end_y = 0;
    for (int v = 0; v < kTile; ++v) {
      const Column one = column(tile * kTile + v);
      const int64_t ky = one.ry + one.ti * s.y.stride;
      columns[v] = ((one.ry - first_ry) * gradient_rows + one.ti) * next_row + one.first_tap;
      // Input rows whose kernel row ky lies within the output.
      const int64_t hidden = s.y.padding - ky, last = s.y.output - 1 + s.y.padding - ky;
      first_y = std::min(first_y, hidden > 0 ? (hidden + s.y.stride - 1) / s.y.stride : 0);
      end_y = std::max(end_y, last < 0 ? 0 : std::min(s.y.input, last / s.y.stride + 1));
    }
    sum_positions<kChannels, kTile>(level, input, GradientRows<T>{rows.get(), next_row, s.x.stride},
                                    columns, first_y, end_y, s.x.input, sums);
  }

  void sum_tiles(const T* input, int64_t channels, T* sums) {
    for (int64_t tile = 0; tile < column_tiles; ++tile, sums += channels * kTile * kLanes) {
      switch (channels) {
        case 1:
          sum_tile<1>(input, tile, sums);
          break;
        case 2:
          sum_tile<2>(input, tile, sums);
          break;
        case 3:
          sum_tile<3>(input, tile, sums);
          break;
        case 4:
          sum_tile<4>(input, tile, sums);
          break;
        case 5:
          sum_tile<5>(input, tile, sums);
          break;
        default:
          if constexpr (L::kVectorBytes == 64) sum_tile<6>(input, tile, sums);
      }
    }
  }

  T* sums_of(int64_t part) const {
    return partial.get() + shares.begin(part) * column_tiles * kTile * kLanes;
  }

  void add_image(const T* transposed, const T* grad, int64_t image) {
    const int64_t at = image * s.groups + group;
    copy_rows(grad + (at * s.outputs + output) * s.output_plane());
    for (int64_t part = 0; part < shares.parts; ++part) {
      sum_tiles(transposed + (at * s.inputs + shares.begin(part)) * s.input_plane(),
                shares.size(part), sums_of(part));
    }
  }

  void store_all(T* grad_weight) {
    for (int64_t part = 0; part < shares.parts; ++part) {
      const int64_t channels = shares.size(part);
      for (int64_t index = 0; index < (end_ry - first_ry) * overlap * vectors; ++index) {
        const Column one = column(index);
        const int64_t ky = one.ry + one.ti * s.y.stride;
        if (ky >= s.y.kernel) continue;
        const T* sums = sums_of(part) + index / kTile * channels * kTile * kLanes;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t input = group * s.inputs + shares.begin(part) + c;
          std::copy_n(sums + (c * kTile + index % kTile) * kLanes,
                      std::min<int64_t>(kLanes, s.x.kernel - one.first_tap),
                      grad_weight + (input * s.outputs + output) * s.kernel_plane() +
                          ky * s.x.kernel + one.first_tap);
        }
      }
    }
  }
};

template <class T>
void conv_transpose_weight_gradient(const T* grad, const T* input, const ConvShape& s,
                                    T* grad_weight) {
  const Shares shares(s.inputs,
                      vector_bytes() == 64 ? WeightTile<64>::kChannels : WeightTile<32>::kChannels);
  const std::unique_ptr<T[]> transposed = transpose_input(input, s, shares);
  const int64_t phases = std::min(s.y.stride, s.y.kernel);
  const int64_t at_once = phases_at_once(s), blocks = (phases + at_once - 1) / at_once;
  parallel_for(s.groups * s.outputs * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task / blocks, first_ry = task % blocks * at_once;
      with_best_instructions([&](auto level) {
        WeightGradient<decltype(level), T> one{level,
                                               s,
                                               shares,
                                               channel / s.outputs,
                                               channel % s.outputs,
                                               first_ry,
                                               std::min(phases, first_ry + at_once)};
        for (int64_t image = 0; image < s.batch; ++image) {
          one.add_image(transposed.get(), grad, image);
        }
        one.store_all(grad_weight);
      });
    }
  });
}

}  // namespace cvlib
