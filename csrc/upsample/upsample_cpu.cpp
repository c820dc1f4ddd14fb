// Bilinear interpolation of images and its gradient on the CPU.
//
// Both are separable and stream over rows. Forward, if the height grows: each source row is
// stretched horizontally once and kept, and an output row is a mixture of two kept rows, so that a
// value costs two loads from cache, two multiplications and one store. Otherwise the order is
// reversed: two source rows are mixed, and the mixture is stretched into the result.
//
// The backward gathers: output rows between two input rows are added, scaled, to the sums of both;
// after the last reader of an input row, its sums are gathered horizontally into the result. The
// result needs no zero-fill, and every gradient is read from memory once.
//
// Channels-last images have rows of C interleaved values. Threads take runs of rows of all planes;
// every row is written once, by the thread that owns it.
#include <algorithm>
#include <limits>

#include "../parallel.h"
#include "image_layout.h"
#include "upsample_rows.h"

namespace cvlib {
namespace {

constexpr int64_t kValuesPerTask = 16384;
constexpr int64_t kCacheLine = 64;
constexpr int64_t kPrefetchAhead = 4096;  // bytes
// Two rows of a tile stay in the L1 cache.
constexpr int64_t kValuesPerTile = 4096;

int64_t rows_per_task(int64_t values_per_row) { return kValuesPerTask / values_per_row + 1; }

// Calls run(plane, y, end) for each run of rows y..end in one plane.
template <class Run>
void for_each_plane(int64_t height, int64_t begin, int64_t end, const Run& run) {
  while (begin < end) {
    const int64_t plane = begin / height, y = begin - plane * height;
    const int64_t stop = std::min(height, y + end - begin);
    run(plane, y, stop);
    begin += stop - y;
  }
}

template <class Value>
struct Resize {
  using T = ComputedIn<Value>;

  const Value* src;
  Value* dst;
  ImageLayout in, out;
  ResizedAxis<T> rows;
  RowStretch<T> stretch;

  // Memory for a row of `values` and the window behind it.
  static std::unique_ptr<T[]> row_of(int64_t values) {
    return std::unique_ptr<T[]>(new T[values + kRowPadding]);
  }

  // Output rows y..end, pixels from left to right. A stretched row is kept until no row reads it.
  template <class L>
  void stretch_then_mix(L level, int64_t plane, int64_t y, int64_t end, int64_t left, int64_t right,
                        T* top, T* bottom, T* room) const {
    const int64_t channels = out.channels, n = (right - left) * channels;
    const int64_t from = stretch.first_pixel(left) * channels;
    const int64_t to = (stretch.last_pixel(right) + 1) * channels;
    int64_t top_row = -1, bottom_row = -1;
    const auto keep_row = [&](int64_t row, T* kept) {
      const Value* values = src + in.row_offset(plane, row);
      for (int64_t j = from; j < to; ++j) room[j] = static_cast<T>(values[j]);
      stretch_row(level, room, stretch, left, right, kept);
      return row;
    };
    for (; y < end; ++y) {
      const Tap<T> tap = tap_at(rows, y);
      if (tap.low != top_row && tap.low == bottom_row) {
        std::swap(top, bottom), std::swap(top_row, bottom_row);
      }
      if (tap.low != top_row) top_row = keep_row(tap.low, top);
      const bool one_row = tap.high == tap.low;
      if (!one_row && tap.high != bottom_row) bottom_row = keep_row(tap.high, bottom);
      mix_rows(level, top, one_row ? top : bottom, T(1) - tap.weight, tap.weight, n,
               dst + out.row_offset(plane, y) + left * channels);
    }
  }

  template <class L>
  void enlarge(L level, int64_t begin, int64_t end) const {
    const int64_t tile = std::max<int64_t>(1, kValuesPerTile / out.channels);
    const int64_t kept = std::min(tile, out.width) * out.channels;
    const auto top = row_of(kept), bottom = row_of(kept), room = row_of(in.row_size());
    for_each_plane(out.height, begin, end, [&](int64_t plane, int64_t y, int64_t stop) {
      for (int64_t left = 0; left < out.width; left += tile) {
        stretch_then_mix(level, plane, y, stop, left, std::min(left + tile, out.width), top.get(),
                         bottom.get(), room.get());
      }
    });
  }

  template <class L>
  void mix_then_stretch(L level, int64_t begin, int64_t end) const {
    const auto room = row_of(in.row_size());
    for_each_plane(out.height, begin, end, [&](int64_t plane, int64_t y, int64_t stop) {
      for (; y < stop; ++y) {
        const Tap<T> tap = tap_at(rows, y);
        const Value* top = src + in.row_offset(plane, tap.low);
        const Value* bottom = src + in.row_offset(plane, tap.high);
        Value* to = dst + out.row_offset(plane, y);
        const T keep = T(1) - tap.weight;
        if (stretch.by_value) {
          mix_rows(level, top, bottom, keep, tap.weight, in.row_size(), room.get());
          stretch_row(level, room.get(), stretch, 0, out.width, to);
        } else {
          mix_pixels(level, top, bottom, keep, tap.weight, stretch, to);
        }
      }
    });
  }

  void run() const {
    parallel_for(out.planes * out.height, rows_per_task(out.row_size()),
                 [&](int64_t begin, int64_t end) {
                   with_best_instructions([&](auto level) {
                     if (rows.out > rows.in) {
                       enlarge(level, begin, end);
                     } else {
                       mix_then_stretch(level, begin, end);
                     }
                   });
                 });
  }
};

// Prefetches the values after the next n. Short rows end before the processor detects a stream, and
// without this it would wait for memory at every row.
template <class Value>
void prefetch_beyond(const Value* values, int64_t n) {
  const int64_t bytes = n * static_cast<int64_t>(sizeof(Value));
  if (bytes > kPrefetchAhead) return;
  const char* ahead = reinterpret_cast<const char*>(values) + kPrefetchAhead;
  for (int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(ahead + at);
}

template <class Value>
struct ResizeGradient {
  using T = ComputedIn<Value>;

  const Value* src;  // gradients of the outputs
  Value* dst;        // gradients of the inputs
  ImageLayout in, out;
  AxisGather<T> rows, columns;

  // Adds K output rows from o on, which share their `low` row, to its sums and those of the next
  // row.
  template <int K, class L>
  void add_outputs(L level, int64_t plane, int64_t o, bool fresh, T* sums, T* below) const {
    const Value* values[K];
    for (int k = 0; k < K; ++k) values[k] = src + out.row_offset(plane, o + k);
    const T *low = rows.low_share.get() + o, *high = rows.high_share.get() + o;
    const int64_t n = out.row_size();
    prefetch_beyond(values[0], K * n);
    if (fresh) return add_rows<K, true>(level, values, low, high, n, sums, below);
    add_rows<K, false>(level, values, low, high, n, sums, below);
  }

  // Adds the outputs whose `low` is input row y to the sums of rows y and y + 1; the latter are
  // new.
  template <class L>
  void add_readers(L level, int64_t plane, int64_t y, T* sums, T* below) const {
    const int64_t end = rows.middle[y + 1], n = out.row_size();
    int64_t o = rows.middle[y];
    // Shares of 0 are skipped, so that an infinite gradient does not become NaN elsewhere.
    for (; o < end && rows.high_share[o] == T(0); ++o) {
      add_scaled(level, src + out.row_offset(plane, o), rows.low_share[o], n, sums);
    }
    bool fresh = true;
    for (; o + 4 <= end; o += 4, fresh = false) add_outputs<4>(level, plane, o, fresh, sums, below);
    for (; o + 2 <= end; o += 2, fresh = false) add_outputs<2>(level, plane, o, fresh, sums, below);
    for (; o < end; ++o, fresh = false) add_outputs<1>(level, plane, o, fresh, sums, below);
    if (fresh) std::fill(below, below + n, T(0));
  }

  template <class L>
  void gather_rows(L level, int64_t begin, int64_t end) const {
    const int64_t n = out.row_size();
    const std::unique_ptr<T[]> memory(new T[2 * (n + kRowPadding) + in.channels]);
    T *sums = memory.get(), *below = sums + n + kRowPadding, *pixel = below + n + kRowPadding;
    for_each_plane(in.height, begin, end, [&](int64_t plane, int64_t y, int64_t stop) {
      std::fill(sums, sums + n, T(0));
      if (y > 0) add_readers(level, plane, y - 1, below, sums);
      for (; y < stop; ++y) {
        add_readers(level, plane, y, sums, below);
        gather_row(level, sums, columns, in.channels, pixel, dst + in.row_offset(plane, y));
        std::swap(sums, below);
      }
    });
  }

  void run() const {
    const int64_t all = in.planes * in.height;
    const int64_t read = out.height * out.row_size() / in.height;
    parallel_for(all, rows_per_task(read + in.row_size()), [&](int64_t begin, int64_t end) {
      with_best_instructions([&](auto level) { gather_rows(level, begin, end); });
    });
  }
};

// Tables of a row have 32-bit offsets.
void check_rows(const Tensor& images, int64_t width) {
  const int64_t values = std::min(images.size(1), kVectorChannels);
  STD_TORCH_CHECK(std::max(images.size(3), width) * values < std::numeric_limits<int32_t>::max(),
                  "expected rows of fewer than 2^31 values");
}

Tensor upsample_bilinear_cpu(const Tensor& input, int64_t height, int64_t width, double scale_y,
                             double scale_x, bool align_corners) {
  check_resize(input, height, width);
  check_rows(input, width);
  const bool channels_last = is_channels_last(input);
  Tensor out = empty_images(input, height, width, channels_last);
  if (keeps_size(input, height, width)) return torch::stable::copy_(out, input);
  const Tensor source = with_dense_rows(input, channels_last);
  dispatch_stored(input.scalar_type(), [&](auto zero) {
    using Value = decltype(zero);
    using T = ComputedIn<Value>;
    const ImageLayout from = layout_of(source, channels_last);
    const Resize<Value> resize{
        data<Value>(source),
        mutable_data<Value>(out),
        from,
        layout_of(out, channels_last),
        resized_axis<T>(input.size(2), height, scale_y, align_corners),
        RowStretch<T>(resized_axis<T>(input.size(3), width, scale_x, align_corners),
                      from.channels)};
    resize.run();
  });
  return out;
}

Tensor upsample_bilinear_backward_cpu(const Tensor& grad, int64_t height, int64_t width,
                                      double scale_y, double scale_x, bool align_corners) {
  check_resize(grad, height, width);
  check_rows(grad, width);
  const bool channels_last = is_channels_last(grad);
  Tensor out = empty_images(grad, height, width, channels_last);
  if (keeps_size(grad, height, width)) return torch::stable::copy_(out, grad);
  const Tensor source = with_dense_rows(grad, channels_last);
  dispatch_stored(grad.scalar_type(), [&](auto zero) {
    using Value = decltype(zero);
    using T = ComputedIn<Value>;
    const ImageLayout to = layout_of(out, channels_last);
    const ResizeGradient<Value> resize{
        data<Value>(source),
        mutable_data<Value>(out),
        to,
        layout_of(source, channels_last),
        AxisGather<T>(resized_axis<T>(height, grad.size(2), scale_y, align_corners), false),
        AxisGather<T>(resized_axis<T>(width, grad.size(3), scale_x, align_corners),
                      to.channels == 1)};
    resize.run();
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("upsample_bilinear", TORCH_BOX(&cvlib::upsample_bilinear_cpu));
  m.impl("upsample_bilinear_plain", TORCH_BOX(&cvlib::upsample_bilinear_cpu));
  m.impl("upsample_bilinear_backward", TORCH_BOX(&cvlib::upsample_bilinear_backward_cpu));
  m.impl("upsample_bilinear_backward_plain", TORCH_BOX(&cvlib::upsample_bilinear_backward_cpu));
}
