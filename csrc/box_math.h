// Boxes: area, intersection, IoU, the NMS decision, offsets. Shared by CPU and CUDA, so that both
// devices compute the same numbers and take the same decisions. No torch include.
//
// Boxes are (x1, y1, x2, y2) in continuous coordinates: a box from 0 to 10 is 10 wide. A box with
// x2 < x1 or y2 < y1 counts as empty, and the IoU with an empty box is 0, never NaN. A NaN
// coordinate makes the area NaN and every IoU with that box 0.
#pragma once

#include <cmath>

#include "host_device.h"

namespace cvlib {

template <class T>
struct Box {
  T x1, y1, x2, y2;
};

// A single comparison each, which compilers turn into min and max instructions.
template <class T>
CVLIB_HOST_DEVICE T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
CVLIB_HOST_DEVICE T larger(T a, T b) {
  return a < b ? b : a;
}

template <class T>
CVLIB_HOST_DEVICE T area(const Box<T>& box) {
  return larger(box.x2 - box.x1, T(0)) * larger(box.y2 - box.y1, T(0));
}

template <class T>
CVLIB_HOST_DEVICE T intersection(const Box<T>& a, const Box<T>& b) {
  const T width = smaller(a.x2, b.x2) - larger(a.x1, b.x1);
  const T height = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
  return larger(width, T(0)) * larger(height, T(0));
}

// Areas are arguments because every kernel has computed them already. 0/0, inf/inf and NaN give 0.
template <class T>
CVLIB_HOST_DEVICE T iou(const Box<T>& a, T area_a, const Box<T>& b, T area_b) {
  const T shared = intersection(a, b);
  const T value = shared / (area_a + area_b - shared);
  return value > T(0) ? value : T(0);
}

// The only place that decides whether one box suppresses another.
template <class T>
CVLIB_HOST_DEVICE bool overlaps(const Box<T>& a, T area_a, const Box<T>& b, T area_b, T threshold) {
  return iou(a, area_a, b, area_b) > threshold;
}

template <class T>
CVLIB_HOST_DEVICE bool is_nan(T value) {
  return value != value;
}

template <class T>
CVLIB_HOST_DEVICE Box<T> read_box(const T* values) {
  return {values[0], values[1], values[2], values[3]};
}

template <class T>
CVLIB_HOST_DEVICE void write_box(const Box<T>& box, T* values) {
  values[0] = box.x1;
  values[1] = box.y1;
  values[2] = box.x2;
  values[3] = box.y2;
}

template <class T>
CVLIB_HOST_DEVICE bool has_nan(const Box<T>& box) {
  return is_nan(box.x1) || is_nan(box.y1) || is_nan(box.x2) || is_nan(box.y2);
}

// Rounds a threshold towards minus infinity, so that `iou > round_down<float>(t)` equals
// `double(iou) > t` for every float IoU.
template <class T>
T round_down(double threshold) {
  const T rounded = static_cast<T>(threshold);
  if (static_cast<double>(rounded) > threshold) {
    return std::nextafter(rounded, static_cast<T>(-INFINITY));
  }
  return rounded;
}

// Rounds up, for decisions of the form `iou >= threshold`.
template <class T>
T round_up(double threshold) {
  const T rounded = static_cast<T>(threshold);
  if (static_cast<double>(rounded) < threshold) {
    return std::nextafter(rounded, static_cast<T>(INFINITY));
  }
  return rounded;
}

// Scales of the four box offsets (dx, dy, dw, dh).
template <class T>
struct Variances {
  T x, y, w, h;
};

// Lower bound of the ratios of sides, so that a ground truth without width or height has a large
// finite offset instead of -inf. box_coding.py has the same constant.
constexpr double kSmallestSideRatio = 1e-6;

template <class T>
CVLIB_HOST_DEVICE Box<T> encode_box(const Box<T>& box, const Box<T>& anchor, Variances<T> v) {
  const T anchor_w = anchor.x2 - anchor.x1;
  const T anchor_h = anchor.y2 - anchor.y1;
  const T dx = (box.x1 + box.x2) * T(0.5) - (anchor.x1 + anchor.x2) * T(0.5);
  const T dy = (box.y1 + box.y2) * T(0.5) - (anchor.y1 + anchor.y2) * T(0.5);
  const T ratio_w = larger((box.x2 - box.x1) / anchor_w, T(kSmallestSideRatio));
  const T ratio_h = larger((box.y2 - box.y1) / anchor_h, T(kSmallestSideRatio));
  return {dx / anchor_w / v.x, dy / anchor_h / v.y, std::log(ratio_w) / v.w,
          std::log(ratio_h) / v.h};
}

// Not clamped, like the book's inverse: an offset too large for exp gives an infinite box.
template <class T>
CVLIB_HOST_DEVICE Box<T> decode_box(const Box<T>& offset, const Box<T>& anchor, Variances<T> v) {
  const T anchor_w = anchor.x2 - anchor.x1;
  const T anchor_h = anchor.y2 - anchor.y1;
  const T center_x = offset.x1 * v.x * anchor_w + (anchor.x1 + anchor.x2) * T(0.5);
  const T center_y = offset.y1 * v.y * anchor_h + (anchor.y1 + anchor.y2) * T(0.5);
  const T half_w = std::exp(offset.x2 * v.w) * anchor_w * T(0.5);
  const T half_h = std::exp(offset.y2 * v.h) * anchor_h * T(0.5);
  return {center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h};
}

}  // namespace cvlib
