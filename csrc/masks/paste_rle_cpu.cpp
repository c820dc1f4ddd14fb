// Pastes small masks into their boxes as COCO's run lengths, without a canvas.
//
// Run lengths go down one column after the other. Between two rows of cells the values of a column
// are monotonic (each operation rounds monotonically), so the threshold is crossed at most once,
// and the crossing is found by bisection: a column costs a few operations per row of the mask,
// whatever the height of the box. Cost: O(h) per column of a box, plus the bisections; memory: the
// text.
#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "../parallel.h"
#include "../torch_compat.h"
#include "checks.h"
#include "paste.h"
#include "paste_inputs.h"

namespace cvlib {
namespace {

// Writes COCO's text: 5 bits per character, lowest first; from the fourth number on, the difference
// to the number two before.
class RunWriter {
 public:
  // Adds the pixels begin..end - 1, counted down the columns; calls must be in order.
  void add_ones(int64_t begin, int64_t end) {
    if (begin == end) return;
    if (begin > end_ || is_first_) {
      flush();
      begin_ = begin;
    }
    end_ = end;
    is_first_ = false;
  }

  std::string finish(int64_t pixels) {
    flush();
    if (pixels > written_ || count_ == 0) write(pixels - written_);
    return std::move(text_);
  }

 private:
  void flush() {
    if (is_first_) return;
    write(begin_ - written_);
    write(end_ - begin_);
    written_ = end_;
  }

  void write(int64_t run) {
    int64_t number = count_ > 2 ? run - before_[count_ % 2] : run;
    before_[count_ % 2] = run;
    ++count_;
    bool has_more = true;
    while (has_more) {
      const int64_t group = number & 31;
      number >>= 5;
      has_more = number != ((group & 16) != 0 ? -1 : 0);
      text_ += static_cast<char>(48 + group + (has_more ? 32 : 0));
    }
  }

  std::string text_;
  int64_t before_[2] = {0, 0}, count_ = 0;
  int64_t begin_ = 0, end_ = 0;  // run of ones that is not written yet
  int64_t written_ = 0;          // pixels in the text
  bool is_first_ = true;
};

// Rows of the canvas between two adjacent rows of cells.
struct Segment {
  int64_t low, begin, end;
};

template <class T>
class ColumnPaster {
 public:
  ColumnPaster(const Masks<T>& masks, int64_t height, int64_t width, T threshold)
      : masks_(masks),
        height_(height),
        width_(width),
        threshold_(threshold),
        columns_(new T[masks.height * (masks.width + 2)]),
        stretched_(new T[masks.height + 2]()),
        fractions_(new T[height]) {}

  std::string encode(int64_t n, const Box<double>& box) {
    RunWriter runs;
    if (can_paste(box)) {
      const PixelRange columns = pixels_in(box.x1, box.x2, width_);
      start(n, box);
      for (int64_t x = columns.begin; x < columns.end; ++x) {
        stretch(locate<T>(x, box.x1, box.x2, masks_.width));
        for (const Segment& segment : segments_) add_segment(segment, x * height_, runs);
      }
    }
    return runs.finish(height_ * width_);
  }

 private:
  // Transposes the mask, with a column of zeros before and after it.
  void start(int64_t n, const Box<double>& box) {
    const int64_t h = masks_.height, w = masks_.width;
    std::fill(columns_.get(), columns_.get() + h, T(0));
    std::fill(columns_.get() + h * (w + 1), columns_.get() + h * (w + 2), T(0));
    for (int64_t y = 0; y < h; ++y) {
      const T* row = masks_.row(n, y);
      for (int64_t x = 0; x < w; ++x) columns_[(x + 1) * h + y] = row[x];
    }
    segments_.clear();
    const PixelRange rows = pixels_in(box.y1, box.y2, height_);
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      const PasteTap<T> tap = locate<T>(y, box.y1, box.y2, h);
      fractions_[y] = tap.fraction;
      if (segments_.empty() || segments_.back().low != tap.low)
        segments_.push_back({tap.low, y, y});
      segments_.back().end = y + 1;
    }
  }

  void stretch(const PasteTap<T>& tap) {
    const T* __restrict left = columns_.get() + (tap.low + 1) * masks_.height;
    const T* __restrict right = left + masks_.height;
    T* __restrict out = stretched_.get() + 1;
    for (int64_t y = 0; y < masks_.height; ++y)
      out[y] = interpolate(left[y], right[y], tap.fraction);
  }

  void add_segment(const Segment& segment, int64_t column, RunWriter& runs) const {
    const T upper = stretched_[segment.low + 1], lower = stretched_[segment.low + 2];
    const auto belongs = [&](int64_t y) {
      return interpolate(upper, lower, fractions_[y]) >= threshold_;
    };
    const bool first = belongs(segment.begin), last = belongs(segment.end - 1);
    int64_t low = segment.begin, high = segment.end - 1;
    if (first != last) {
      while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (belongs(middle) == first ? low : high) = middle;
      }
    } else {
      low = high;
    }
    // The pixels up to `low` equal the first one, those after it the last one.
    if (first) runs.add_ones(column + segment.begin, column + low + 1);
    if (last && !first) runs.add_ones(column + low + 1, column + segment.end);
  }

  Masks<T> masks_;
  int64_t height_, width_;
  T threshold_;
  std::unique_ptr<T[]> columns_, stretched_, fractions_;
  std::vector<Segment> segments_;
};

std::tuple<Tensor, Tensor> paste_masks_rle_cpu(const Tensor& masks, const Tensor& boxes,
                                               int64_t height, int64_t width, double threshold) {
  check_paste(masks, boxes, height, width);
  const Tensor real = as_real(masks);
  const int64_t n = real.size(0);
  const std::vector<Box<double>> read = read_boxes(boxes);
  std::vector<std::string> texts(n);
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Masks<T> source{data<T>(real), real.size(1), real.size(2)};
    check_values(are_valid_masks(source.values, real.numel()));
    parallel_for(n, 1, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        ColumnPaster<T> paster(source, height, width, round_up<T>(threshold));
        for (int64_t i = begin; i < end; ++i) texts[i] = paster.encode(i, read[i]);
      });
    });
  });
  Tensor ends = empty(real, {n}, ScalarType::Long);
  int64_t* stops = mutable_data<int64_t>(ends);
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) stops[i] = total += static_cast<int64_t>(texts[i].size());
  Tensor text = empty(real, {total}, ScalarType::Byte);
  char* out = static_cast<char*>(text.mutable_data_ptr());
  for (const std::string& mask : texts) out = std::copy(mask.begin(), mask.end(), out);
  return {text, ends};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("paste_masks_rle", TORCH_BOX(&cvlib::paste_masks_rle_cpu));
}
