// Transposed convolution on the CPU as an implicit matrix product.
//
// A row of the product is a position (i, q): the outputs of segments i and q. A column is an output
// channel with a phase (ry, rx) in the segment. Their value is a sum over (ti, channel, tj) of the
// input at (i - ti, q - tj) times the tap (ry + ti * stride, rx + tj * stride). The input of one
// term is contiguous along the positions, and the taps are contiguous along the phases; so a tile
// of kRows positions and two registers of columns is summed in registers, with one broadcast per
// position and term. The taps of the columns are packed once for all positions (32 columns at a
// time, in L1), and the input is copied once with zeros around it. Each output is written once,
// with its bias, by the task that owns its column.
//
// Cost: outputs * channels * overlap^2 multiplications, except for terms of rows beyond the input,
// which are skipped. Memory: the copy of the input.
#pragma once

#include <algorithm>
#include <memory>

#include "conv_shape.h"
#include "register_tile.h"

namespace cvlib {

// The input with zeros around it: element (row, column) is at (row + overlap - 1, column + overlap
// - 1) of its plane. The zeros to the right of a row are also those to the left of the next.
struct PaddedPlane {
  static constexpr int64_t kSlack = 16;  // a tile may read positions beyond the last one
  int64_t rows, columns, size;

  explicit PaddedPlane(const ConvShape& s)
      : rows(s.y.segments() + s.y.overlap() - 1),
        columns(std::max(s.x.segments(), s.x.input + s.x.overlap() - 1)),
        size(rows * columns) {}
};

template <class T>
void pad_plane(const T* from, const ConvShape& s, const PaddedPlane& plane, T* to) {
  const int64_t above = s.y.overlap() - 1, left = s.x.overlap() - 1;
  for (int64_t row = 0; row < plane.rows; ++row, to += plane.columns) {
    const int64_t y = row - above;
    if (y < 0 || y >= s.y.input) {
      std::fill_n(to, plane.columns, T(0));
      continue;
    }
    std::fill_n(to, left, T(0));
    std::copy_n(from + y * s.x.input, s.x.input, to + left);
    std::fill(to + left + s.x.input, to + plane.columns, T(0));
  }
}

template <class T>
std::unique_ptr<T[]> pad_input(const T* input, const ConvShape& s, const PaddedPlane& plane) {
  const int64_t channels = s.batch * s.groups * s.inputs;
  std::unique_ptr<T[]> padded(new T[channels * plane.size + plane.columns + PaddedPlane::kSlack]);
  std::fill_n(padded.get() + channels * plane.size, plane.columns + PaddedPlane::kSlack, T(0));
  parallel_for(channels, 32768 / (plane.size + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      pad_plane(input + c * s.input_plane(), s, plane, padded.get() + c * plane.size);
    }
  });
  return padded;
}

// The terms of the sum, sorted by ti, so that skipping rows beyond the input shortens the range.
inline std::unique_ptr<int64_t[]> list_terms(const ConvShape& s, const PaddedPlane& plane) {
  const int64_t high = s.y.overlap(), wide = s.x.overlap();
  std::unique_ptr<int64_t[]> offsets(new int64_t[high * s.inputs * wide]);
  int64_t* next = offsets.get();
  for (int64_t ti = 0; ti < high; ++ti) {
    for (int64_t channel = 0; channel < s.inputs; ++channel) {
      for (int64_t tj = 0; tj < wide; ++tj) {
        *next++ = channel * plane.size + (high - 1 - ti) * plane.columns + wide - 1 - tj;
      }
    }
  }
  return offsets;
}

// Adjacent columns that are adjacent outputs.
struct Piece {
  int64_t first, length;  // columns
  int64_t channel, ry, rx;
};

constexpr int64_t kTaskColumns = 32;  // a multiple of the columns of every level's tile

struct Pieces {
  Piece at[kTaskColumns];
  int64_t count = 0;
  int64_t lowest_ry, highest_ry;

  // Columns begin .. end - 1 of a group, counted as (channel, ry, rx).
  Pieces(const ConvShape& s, int64_t begin, int64_t end)
      : lowest_ry(s.y.stride - 1), highest_ry(0) {
    int64_t column = begin;
    while (column < end) {
      const int64_t rx = column % s.x.stride, row = column / s.x.stride;
      const int64_t length = std::min(s.x.stride - rx, end - column);
      const int64_t ry = row % s.y.stride;
      at[count++] = {column - begin, length, row / s.y.stride, ry, rx};
      lowest_ry = std::min(lowest_ry, ry);
      highest_ry = std::max(highest_ry, ry);
      column += length;
    }
  }
};

// The taps of a tile's columns, term by term; zeros where a kernel has no such tap.
template <int kColumns, class T>
void pack_taps(const T* weight, const ConvShape& s, const Pieces& pieces, T* packed) {
  for (int64_t ti = 0; ti < s.y.overlap(); ++ti) {
    for (int64_t channel = 0; channel < s.inputs; ++channel) {
      for (int64_t tj = 0; tj < s.x.overlap(); ++tj, packed += kColumns) {
        std::memset(packed, 0, kColumns * sizeof(T));
        for (int64_t p = 0; p < pieces.count; ++p) {
          const Piece& piece = pieces.at[p];
          const int64_t ky = piece.ry + ti * s.y.stride, kx = piece.rx + tj * s.x.stride;
          if (ky >= s.y.kernel || kx >= s.x.kernel) continue;
          const T* taps = weight + (channel * s.outputs + piece.channel) * s.kernel_plane() +
                          ky * s.x.kernel + kx;
          const int64_t length = std::min(piece.length, s.x.kernel - kx);
          if (length == kColumns) {
            std::memcpy(packed, taps, kColumns * sizeof(T));
            prefetch(taps + s.x.kernel, kColumns);  // for the next tile
          } else {
            for (int64_t c = 0; c < length; ++c) packed[piece.first + c] = taps[c];
          }
        }
      }
    }
  }
}

template <int kRows, class L, class T>
inline void sum_tile(L level, const T* input, const T* taps, const int64_t* offsets, int64_t terms,
                     const T* bias, T* tile) {
  using V = typename Register<L, T>::Type;
  constexpr int kLanes = Register<L, T>::kLanes;
  V sums[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    load(sums[r][0], bias);
    load(sums[r][1], bias + kLanes);
  }
  for (int64_t k = 0; k < terms; ++k, taps += 2 * kLanes) {
    const T* from = input + offsets[k];
    V left, right, value;
    load(left, taps);
    load(right, taps + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      broadcast(value, from[r]);
      add_product(level, sums[r][0], value, left);
      add_product(level, sums[r][1], value, right);
    }
  }
  std::memcpy(tile, sums, sizeof(sums));
}

// Positions of a tile in the output.
template <int kRows>
struct TilePlace {
  int64_t y[kRows], x[kRows];  // for phase 0
  int count = 0;
};

// Copies the part of a run of outputs that lies within the row. A constant length takes one or two
// instructions.
template <int kLength, class T>
inline void copy_run(const T* from, int64_t length, int64_t x, int64_t width, T* row) {
  if (x >= 0 && x + length <= width) {
    if (length == kLength) {
      std::memcpy(row + x, from, kLength * sizeof(T));
      return;
    }
    if constexpr (kLength > 2) return copy_run<kLength / 2>(from, length, x, width, row);
  }
  const int64_t begin = std::max<int64_t>(0, -x), end = std::min(length, width - x);
  for (int64_t c = begin; c < end; ++c) row[x + c] = from[c];
}

template <int kRows, int kColumns, class T>
inline void store_tile(const T* tile, const ConvShape& s, const Pieces& pieces,
                       const TilePlace<kRows>& place, T* output) {
  for (int64_t p = 0; p < pieces.count; ++p) {
    const Piece& piece = pieces.at[p];
    T* plane = output + piece.channel * s.output_plane();
    for (int r = 0; r < place.count; ++r) {
      const int64_t y = place.y[r] + piece.ry;
      if (y < 0 || y >= s.y.output) continue;
      copy_run<kColumns>(tile + r * kColumns + piece.first, piece.length, place.x[r] + piece.rx,
                         s.x.output, plane + y * s.x.output);
    }
  }
}

// Computes all positions of one image for the columns of `pieces`.
template <int kRows, class L, class T>
void sum_image(L level, const T* padded, const T* taps, const T* bias, const int64_t* offsets,
               const ConvShape& s, const PaddedPlane& plane, const Pieces& pieces, T* tile,
               T* output) {
  constexpr int kColumns = 2 * Register<L, T>::kLanes;
  const int64_t terms = s.inputs * s.x.overlap();  // per ti
  const int64_t hidden = s.y.padding - pieces.highest_ry;
  const int64_t first_row = hidden > 0 ? (hidden + s.y.stride - 1) / s.y.stride : 0;
  const int64_t last = s.y.output - 1 + s.y.padding - pieces.lowest_ry;
  if (last < 0) return;
  const int64_t end = (last / s.y.stride + 1) * plane.columns;
  int64_t i = first_row, q = 0;
  for (int64_t m = first_row * plane.columns; m < end; m += kRows) {
    const int64_t top = i;
    TilePlace<kRows> place;
    while (place.count < kRows && m + place.count < end) {
      place.y[place.count] = i * s.y.stride - s.y.padding;
      place.x[place.count++] = q * s.x.stride - s.x.padding;
      if (++q == plane.columns) q = 0, ++i;
    }
    const int64_t bottom = q == 0 ? i - 1 : i;
    const int64_t first_ti = std::max<int64_t>(0, top - (s.y.input - 1));
    const int64_t end_ti = std::max(first_ti, std::min(s.y.overlap(), bottom + 1));
    sum_tile<kRows>(level, padded + m, taps + first_ti * terms * kColumns,
                    offsets + first_ti * terms, (end_ti - first_ti) * terms, bias, tile);
    store_tile<kRows, kColumns>(tile, s, pieces, place, output);
  }
}

// Computes up to kTaskColumns columns of a group, for images first .. end - 1.
template <class L, class T>
void sum_columns(L level, const T* padded, const T* weight, const T* bias, const int64_t* offsets,
                 const ConvShape& s, const PaddedPlane& plane, int64_t group, int64_t first_column,
                 int64_t first_image, int64_t end_image, T* output) {
  constexpr int kColumns = 2 * Register<L, T>::kLanes;
  // Sixteen sums hide the latency of multiply-add; with half as many registers, twelve fit.
  constexpr int kRows = L::kVectorBytes == 64 ? 8 : 6;
  const int64_t columns = s.outputs * s.y.stride * s.x.stride;
  const int64_t terms = s.inputs * s.y.overlap() * s.x.overlap();
  std::unique_ptr<T[]> taps(new T[terms * kColumns]);
  // On the heap, because GCC splits a tile on the stack into lanes, and the sums with it.
  std::unique_ptr<T[]> tile(new T[kRows * kColumns]);
  const int64_t task_end = std::min(columns, first_column + kTaskColumns);
  for (int64_t column = first_column; column < task_end; column += kColumns) {
    const Pieces pieces(s, column, std::min(task_end, column + kColumns));
    pack_taps<kColumns>(weight + group * s.inputs * s.outputs * s.kernel_plane(), s, pieces,
                        taps.get());
    alignas(64) T biases[kColumns] = {};
    for (int64_t p = 0; bias != nullptr && p < pieces.count; ++p) {
      std::fill_n(biases + pieces.at[p].first, pieces.at[p].length,
                  bias[group * s.outputs + pieces.at[p].channel]);
    }
    for (int64_t image = first_image; image < end_image; ++image) {
      const int64_t at = image * s.groups + group;
      sum_image<kRows>(level, padded + at * s.inputs * plane.size, taps.get(), biases, offsets, s,
                       plane, pieces, tile.get(), output + at * s.outputs * s.output_plane());
    }
  }
}

// weight (groups * inputs, outputs, kernel, kernel); bias may be null.
template <class T>
void conv_transpose_forward(const T* input, const T* weight, const T* bias, const ConvShape& s,
                            T* output) {
  const PaddedPlane plane(s);
  const std::unique_ptr<T[]> padded = pad_input(input, s, plane);
  const std::unique_ptr<int64_t[]> offsets = list_terms(s, plane);
  const int64_t columns = s.outputs * s.y.stride * s.x.stride;
  const int64_t blocks = s.groups * ((columns + kTaskColumns - 1) / kTaskColumns);
  // Images share the packed taps of a block; they are split into tasks if there are few blocks.
  const int64_t images_per_task = std::max<int64_t>(1, s.batch * blocks / 64);
  const int64_t chunks = (s.batch + images_per_task - 1) / images_per_task;
  parallel_for(chunks * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task % blocks, first_image = task / blocks * images_per_task;
      const int64_t in_group = block % (blocks / s.groups);
      const int64_t end_image = std::min(s.batch, first_image + images_per_task);
      with_best_instructions([&](auto level) {
        sum_columns(level, padded.get(), weight, bias, offsets.get(), s, plane,
                    block / (blocks / s.groups), in_group * kTaskColumns, first_image, end_image,
                    output);
      });
    }
  });
}

}  // namespace cvlib
