// Pastes small masks into their boxes on a canvas, on the CPU.
//
// Each row of a mask is stretched along x once; a row of the canvas is then a weighted sum of two
// stretched rows, one streaming loop without gathers. Cost: (w + 2) reads per row of the mask and 3
// operations per pixel in the box. Outside the boxes, small results are filled with zeros; large
// ones consist of zero pages that stay untouched. A task owns whole rows of the canvas and writes
// each once.
#include <algorithm>
#include <memory>
#include <vector>

#include "../parallel.h"
#include "../torch_compat.h"
#include "checks.h"
#include "lazy_zeros.h"
#include "paste.h"
#include "paste_inputs.h"

namespace cvlib {
namespace {

constexpr int64_t kPixelsPerTask = 65536;

// Positions of a box's columns in its mask, with memory for the widest box.
template <class T>
struct Columns {
  explicit Columns(int64_t canvas_width)
      : cells(new int32_t[canvas_width]), fractions(new T[canvas_width]) {}

  void locate_all(const Box<double>& box, PixelRange columns, int64_t mask_width) {
    count = columns.end - columns.begin;
    for (int64_t j = 0; j < count; ++j) {
      const PasteTap<T> tap = locate<T>(columns.begin + j, box.x1, box.x2, mask_width);
      cells[j] = static_cast<int32_t>(tap.low + 1);  // rows are padded with one 0 in front
      fractions[j] = tap.fraction;
    }
  }

  int64_t count = 0;
  std::unique_ptr<int32_t[]> cells;
  std::unique_ptr<T[]> fractions;
};

// Two adjacent rows of a mask, stretched over the columns of its box.
template <class T>
class StretchedRows {
 public:
  StretchedRows(const Masks<T>& masks, int64_t canvas_width)
      : masks_(masks),
        columns_(canvas_width),
        padded_(new T[masks.width + 2]()),
        upper_(new T[canvas_width]),
        lower_(new T[canvas_width]),
        step_(new T[canvas_width]) {}

  void start(int64_t n, const Box<double>& box, PixelRange columns) {
    n_ = n;
    low_ = -2;
    columns_.locate_all(box, columns, masks_.width);
  }

  // Sets `upper` to row `low` of the mask, and upper + step to the next row.
  void move_to(int64_t low) {
    if (low == low_) return;
    if (low == low_ + 1 && low_ != -2) {
      std::swap(upper_, lower_);
    } else {
      stretch(low, upper_.get());
    }
    stretch(low + 1, lower_.get());
    const T* __restrict upper = upper_.get();
    const T* __restrict lower = lower_.get();
    T* __restrict step = step_.get();
    for (int64_t j = 0; j < columns_.count; ++j) step[j] = lower[j] - upper[j];
    low_ = low;
  }

  const T* upper() const { return upper_.get(); }
  const T* step() const { return step_.get(); }

 private:
  void stretch(int64_t y, T* __restrict out) {
    const int64_t count = columns_.count;
    if (y < 0 || y >= masks_.height) {
      std::fill(out, out + count, T(0));
      return;
    }
    const T* row = masks_.row(n_, y);
    std::copy(row, row + masks_.width, padded_.get() + 1);
    const T* __restrict padded = padded_.get();
    const int32_t* __restrict cells = columns_.cells.get();
    const T* __restrict fractions = columns_.fractions.get();
    for (int64_t j = 0; j < count; ++j) {
      out[j] = interpolate(padded[cells[j]], padded[cells[j] + 1], fractions[j]);
    }
  }

  Masks<T> masks_;
  Columns<T> columns_;
  std::unique_ptr<T[]> padded_, upper_, lower_, step_;
  int64_t n_ = 0, low_ = -2;
};

template <class T, class Make>
void write_segment(const StretchedRows<T>& rows, T fraction, int64_t count, const Make& make,
                   typename Make::Out* __restrict out) {
  const T* __restrict upper = rows.upper();
  const T* __restrict step = rows.step();
  for (int64_t j = 0; j < count; ++j) out[j] = make(upper[j] + step[j] * fraction);
}

// Rows begin..end - 1 of all canvases, one below the other.
template <class T, class Make>
void paste_rows(const Masks<T>& masks, const Box<double>* boxes, Canvas canvas, const Make& make,
                int64_t begin, int64_t end, bool is_zero, typename Make::Out* out) {
  using Out = typename Make::Out;
  StretchedRows<T> stretched(masks, canvas.width);
  Out* written = out + begin * canvas.width;
  const auto fill_up_to = [&](Out* position) {
    if (!is_zero) std::fill(written, position, Out(0));
  };
  while (begin < end) {
    const int64_t n = begin / canvas.height, first = n * canvas.height;
    const int64_t stop = std::min(end, first + canvas.height);
    const Box<double>& box = boxes[n];
    if (can_paste(box)) {
      const PixelRange columns = pixels_in(box.x1, box.x2, canvas.width);
      const PixelRange rows = pixels_in(box.y1, box.y2, canvas.height);
      const int64_t count = columns.end - columns.begin;
      const int64_t top = std::max(rows.begin, begin - first);
      const int64_t bottom = count > 0 ? std::min(rows.end, stop - first) : top;
      if (top < bottom) stretched.start(n, box, columns);
      for (int64_t y = top; y < bottom; ++y) {
        const PasteTap<T> tap = locate<T>(y, box.y1, box.y2, masks.height);
        stretched.move_to(tap.low);
        Out* segment = out + (first + y) * canvas.width + columns.begin;
        fill_up_to(segment);
        write_segment(stretched, tap.fraction, count, make, segment);
        written = segment + count;
      }
    }
    begin = stop;
  }
  fill_up_to(out + end * canvas.width);
}

// Gradients of a mask's rows `low` and `low` + 1, summed over rows of the canvas.
template <class T>
class GatheredRows {
 public:
  GatheredRows(int64_t mask_height, int64_t mask_width, int64_t canvas_width)
      : height_(mask_height),
        width_(mask_width),
        columns_(canvas_width),
        padded_(new T[mask_width + 2]),
        upper_(new T[canvas_width]),
        lower_(new T[canvas_width]) {}

  void start(const Box<double>& box, PixelRange columns, T* grad_mask) {
    grad_ = grad_mask;
    columns_.locate_all(box, columns, width_);
    low_ = -2;
    clear(upper_.get());
    clear(lower_.get());
  }

  void add(const PasteTap<T>& tap, const T* __restrict grad) {
    move_to(tap.low);
    T* __restrict upper = upper_.get();
    T* __restrict lower = lower_.get();
    for (int64_t j = 0; j < columns_.count; ++j) {
      const T below = grad[j] * tap.fraction;
      upper[j] += grad[j] - below;
      lower[j] += below;
    }
  }

  void finish() {
    flush(low_, upper_.get());
    flush(low_ + 1, lower_.get());
  }

 private:
  void clear(T* row) { std::fill(row, row + columns_.count, T(0)); }

  void move_to(int64_t low) {
    if (low == low_) return;
    flush(low_, upper_.get());
    if (low == low_ + 1) {
      std::swap(upper_, lower_);
    } else {
      flush(low_ + 1, lower_.get());
      clear(upper_.get());
    }
    clear(lower_.get());
    low_ = low;
  }

  void flush(int64_t y, const T* row) {
    if (y < 0 || y >= height_) return;
    T* padded = padded_.get();
    std::fill(padded, padded + width_ + 2, T(0));
    for (int64_t j = 0; j < columns_.count; ++j) {
      const T right = row[j] * columns_.fractions[j];
      padded[columns_.cells[j]] += row[j] - right;
      padded[columns_.cells[j] + 1] += right;
    }
    for (int64_t x = 0; x < width_; ++x) grad_[y * width_ + x] += padded[x + 1];
  }

  int64_t height_, width_;
  Columns<T> columns_;
  std::unique_ptr<T[]> padded_, upper_, lower_;
  T* grad_ = nullptr;
  int64_t low_ = -2;
};

template <class T>
void gather_gradient(const T* grad, const Box<double>* boxes, Canvas canvas, int64_t mask_height,
                     int64_t mask_width, int64_t begin, int64_t end, T* grad_masks) {
  GatheredRows<T> gathered(mask_height, mask_width, canvas.width);
  const int64_t cells = mask_height * mask_width;
  std::fill(grad_masks + begin * cells, grad_masks + end * cells, T(0));
  for (int64_t n = begin; n < end; ++n) {
    const Box<double>& box = boxes[n];
    if (!can_paste(box)) continue;
    const PixelRange columns = pixels_in(box.x1, box.x2, canvas.width);
    const PixelRange rows = pixels_in(box.y1, box.y2, canvas.height);
    gathered.start(box, columns, grad_masks + n * cells);
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      gathered.add(locate<T>(y, box.y1, box.y2, mask_height),
                   grad + (n * canvas.height + y) * canvas.width + columns.begin);
    }
    gathered.finish();
  }
}

template <class T, class Make>
Tensor paste(const Tensor& masks, const Tensor& boxes, Canvas canvas, const Make& make,
             ScalarType type) {
  using Out = typename Make::Out;
  const std::vector<Box<double>> read = read_boxes(boxes);
  const int64_t n = masks.size(0);
  const Masks<T> source{data<T>(masks), masks.size(1), masks.size(2)};
  check_values(are_valid_masks(source.values, masks.numel()));
  const LazyZeros result = lazy_zeros<Out>(masks, n, canvas.height, canvas.width, type);
  if (canvas.width == 0) return result.tensor;
  Out* out = mutable_data<Out>(result.tensor);
  parallel_for(n * canvas.height, kPixelsPerTask / canvas.width + 1,
               [&](int64_t begin, int64_t end) {
                 with_best_instructions([&] {
                   paste_rows(source, read.data(), canvas, make, begin, end, result.is_zero, out);
                 });
               });
  return result.tensor;
}

Tensor paste_masks_cpu(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                       double threshold) {
  check_paste(masks, boxes, height, width);
  const Tensor real = as_real(masks);
  Tensor out;
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const PasteThreshold<T> decide{round_up<T>(threshold)};
    out = paste<T>(real, boxes, {height, width}, decide, ScalarType::Bool);
  });
  return out;
}

Tensor paste_mask_values_cpu(const Tensor& masks, const Tensor& boxes, int64_t height,
                             int64_t width) {
  check_paste(masks, boxes, height, width);
  const Tensor real = as_real(masks);
  Tensor out;
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    out = paste<T>(real, boxes, {height, width}, PasteValue<T>{}, real.scalar_type());
  });
  return out;
}

Tensor paste_mask_values_backward_cpu(const Tensor& grad, const Tensor& boxes, int64_t mask_height,
                                      int64_t mask_width) {
  check_paste_gradient(grad, boxes, mask_height, mask_width);
  const Tensor real = as_real(grad);
  const std::vector<Box<double>> read = read_boxes(boxes);
  const int64_t n = real.size(0);
  const Canvas canvas{real.size(1), real.size(2)};
  Tensor out = empty(real, {n, mask_height, mask_width}, real.scalar_type());
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T* result = mutable_data<T>(out);
    parallel_for(n, 1, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        gather_gradient(data<T>(real), read.data(), canvas, mask_height, mask_width, begin, end,
                        result);
      });
    });
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&cvlib::paste_masks_cpu));
  m.impl("paste_mask_values", TORCH_BOX(&cvlib::paste_mask_values_cpu));
  m.impl("paste_mask_values_backward", TORCH_BOX(&cvlib::paste_mask_values_backward_cpu));
}
