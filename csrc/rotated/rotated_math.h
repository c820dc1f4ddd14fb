// Rotated boxes: sine and cosine, intersection, IoU and the NMS decision. Shared by CPU and CUDA,
// and mirrored operation by operation in cvlib/ops/_rotated_reference.py, so that all of them
// decide alike. No torch include.
//
// Everything is computed in double and rounded to the dtype of the boxes once, at the end. With
// sides a > b the error of the area a * b is about epsilon * a^2, so in float a box of 1 x 1000
// would lose three of its seven digits.
//
// The intersection needs no polygon, no sorting and no case distinction. In the axes of the first
// box, |x| <= A and |y| <= B, Green's theorem gives it as the integral of clamp(y, -B, B) along the
// part of the other box's outline where |x| <= A: four edges, each a clamped linear function. It is
// continuous in every argument, so rounding errors stay small: shared edges, touching corners and
// nearly equal angles are not special cases.
#pragma once

#include <cmath>

#include "../box_math.h"

namespace cvlib {

// A box with everything that all its pairs need. Its width is along (cosine, -sine) and its height
// along (sine, cosine): y points down, so this is counter-clockwise in the displayed image.
struct RotatedBox {
  double x, y;                // centre
  double half_w, half_h;      // half the sides
  double cosine, sine;        // of the angle
  double extent_x, extent_y;  // half the sides of the upright bounding box
  double span;                // half_w + half_h: at least the distance from centre to corner
  double area;                // NaN for an invalid box, so that every IoU with it is 0
};

constexpr double kRadiansPerDegree = 0.017453292519943295;
// Up to this angle, angle - 90 k is exact.
constexpr double kLargestAngle = 1e9;
// Shorter sides count as 0, because products of lengths would underflow.
constexpr double kSmallestSide = 1e-140;

// Sine and cosine of an angle in degrees, from additions and multiplications only: those of C
// libraries differ in the last bit. The remainder after quarter turns is exact, so 90 is exactly
// upright; within 45 degrees the error of the Taylor series is below the rounding.
CVLIB_HOST_DEVICE void sine_and_cosine(double degrees, double& sine, double& cosine) {
  const double turns = std::floor(degrees / 90.0 + 0.5);
  const double x = (degrees - 90.0 * turns) * kRadiansPerDegree;
  const double y = x * x;
  double s = 1.0 / 355687428096000.0;
  s = s * y - 1.0 / 1307674368000.0;
  s = s * y + 1.0 / 6227020800.0;
  s = s * y - 1.0 / 39916800.0;
  s = s * y + 1.0 / 362880.0;
  s = s * y - 1.0 / 5040.0;
  s = s * y + 1.0 / 120.0;
  s = s * y - 1.0 / 6.0;
  s = x + x * (y * s);
  double c = 1.0 / 20922789888000.0;
  c = c * y - 1.0 / 87178291200.0;
  c = c * y + 1.0 / 479001600.0;
  c = c * y - 1.0 / 3628800.0;
  c = c * y + 1.0 / 40320.0;
  c = c * y - 1.0 / 720.0;
  c = c * y + 1.0 / 24.0;
  c = c * y - 0.5;
  c = 1.0 + c * y;
  const double quarter = turns - 4.0 * std::floor(turns / 4.0);  // 0, 1, 2 or 3
  const bool is_odd = (quarter == 1.0) | (quarter == 3.0);
  const double cosine_size = is_odd ? s : c, sine_size = is_odd ? c : s;
  cosine = (quarter == 1.0) | (quarter == 2.0) ? -cosine_size : cosine_size;
  sine = quarter >= 2.0 ? -sine_size : sine_size;
}

CVLIB_HOST_DEVICE bool is_rotated_box(double x, double y, double w, double h, double angle) {
  return (w >= 0.0) & (h >= 0.0) & (x == x) & (y == y) & (std::abs(angle) <= kLargestAngle);
}

template <class T>
CVLIB_HOST_DEVICE bool is_rotated_box(const T* values) {
  return is_rotated_box(values[0], values[1], values[2], values[3], values[4]);
}

CVLIB_HOST_DEVICE RotatedBox make_rotated_box(double x, double y, double w, double h,
                                              double angle) {
  RotatedBox box;
  box.x = x;
  box.y = y;
  box.half_w = 0.5 * w;
  box.half_h = 0.5 * h;
  sine_and_cosine(angle, box.sine, box.cosine);
  const double c = std::abs(box.cosine), s = std::abs(box.sine);
  box.extent_x = box.half_w * c + box.half_h * s;
  box.extent_y = box.half_w * s + box.half_h * c;
  box.span = box.half_w + box.half_h;
  const double area = (w >= kSmallestSide) & (h >= kSmallestSide) ? w * h : 0.0;
  box.area = is_rotated_box(x, y, w, h, angle) ? area : static_cast<double>(NAN);
  return box;
}

// From (cx, cy, w, h, angle).
template <class T>
CVLIB_HOST_DEVICE RotatedBox read_rotated_box(const T* values) {
  return make_rotated_box(values[0], values[1], values[2], values[3], values[4]);
}

// A total order of boxes, so that both orders of a pair give equal bits. The smaller box comes
// first: in its axes, rounding is relative to its own size.
CVLIB_HOST_DEVICE bool comes_first(const RotatedBox& a, const RotatedBox& b) {
  bool first = a.sine < b.sine;
  first = (a.cosine < b.cosine) | ((a.cosine == b.cosine) & first);
  first = (a.half_h < b.half_h) | ((a.half_h == b.half_h) & first);
  first = (a.y < b.y) | ((a.y == b.y) & first);
  first = (a.x < b.x) | ((a.x == b.x) & first);
  return (a.span < b.span) | ((a.span == b.span) & first);
}

// Field by field, because compilers vectorise a choice of numbers but not of addresses.
CVLIB_HOST_DEVICE RotatedBox choose(bool first, const RotatedBox& a, const RotatedBox& b) {
  return {first ? a.x : b.x,
          first ? a.y : b.y,
          first ? a.half_w : b.half_w,
          first ? a.half_h : b.half_h,
          first ? a.cosine : b.cosine,
          first ? a.sine : b.sine,
          first ? a.extent_x : b.extent_x,
          first ? a.extent_y : b.extent_y,
          first ? a.span : b.span,
          first ? a.area : b.area};
}

// Replaces 1 / 0 for edges parallel to an axis: finite, so that 0 * kSteep is 0, and large enough
// to leave every interval.
constexpr double kSteep = 1e150;

CVLIB_HOST_DEVICE double reciprocal(double value) {
  return std::abs(value) > 1.0 / kSteep ? 1.0 / value : kSteep;
}

// Two parallel edges of a box in the axes of another: their direction (dx, dy) from start to end.
// start + t * direction lies between -A and A for t in centre +- reach.
struct EdgeDirection {
  double dx, dy, per_x, per_y, reach_x, reach_y;
};

CVLIB_HOST_DEVICE EdgeDirection edge_direction(double dx, double dy, double half_w, double half_h) {
  const double per_x = reciprocal(dx), per_y = reciprocal(dy);
  return {dx, dy, per_x, per_y, half_w * std::abs(per_x), half_h * std::abs(per_y)};
}

CVLIB_HOST_DEVICE double clamp_to(double value, double low, double high) {
  return smaller(larger(value, low), high);
}

// The integral of clamp(y, -half_h, half_h) dx along an edge from (x, y), where |x| <= half_w.
CVLIB_HOST_DEVICE double integral_along(double x, double y, const EdgeDirection& edge,
                                        double half_h) {
  const double centre_x = -x * edge.per_x, centre_y = -y * edge.per_y;
  const double begin = clamp_to(centre_x - edge.reach_x, 0.0, 1.0);
  const double end = clamp_to(centre_x + edge.reach_x, 0.0, 1.0);
  const double enter = clamp_to(centre_y - edge.reach_y, begin, end);
  const double leave = clamp_to(centre_y + edge.reach_y, begin, end);
  const double both = enter + leave;
  const double within = (leave - enter) * (y + 0.5 * both * edge.dy);
  const double beyond = (begin + end - both) * (edge.dy < 0.0 ? -half_h : half_h);
  return edge.dx * (within + beyond);
}

// Intersections below this share of (sum of spans) * (smaller span) are rounding errors and count
// as 0, so that disjoint and touching boxes have IoU 0. About 30 times the largest rounding error.
constexpr double kRounding = 1.0 / 281474976710656.0;  // 2^-48

// Upper bound of the intersection: the overlap of the upright bounding boxes.
CVLIB_HOST_DEVICE double largest_intersection(const RotatedBox& a, const RotatedBox& b) {
  const double width =
      smaller(a.extent_x + b.extent_x - std::abs(a.x - b.x), 2.0 * smaller(a.extent_x, b.extent_x));
  const double height =
      smaller(a.extent_y + b.extent_y - std::abs(a.y - b.y), 2.0 * smaller(a.extent_y, b.extent_y));
  return smaller(larger(width, 0.0) * larger(height, 0.0), smaller(a.area, b.area));
}

// A box in the axes of another: its centre and the vectors of half its width and height.
struct RelativeBox {
  double x, y, wx, wy, hx, hy;
};

CVLIB_HOST_DEVICE RelativeBox in_axes_of(const RotatedBox& own, const RotatedBox& other) {
  const double dx = other.x - own.x, dy = other.y - own.y;
  const double cosine = other.cosine * own.cosine + other.sine * own.sine;
  const double sine = other.sine * own.cosine - other.cosine * own.sine;
  return {dx * own.cosine - dy * own.sine,
          dx * own.sine + dy * own.cosine,
          other.half_w * cosine,
          -(other.half_w * sine),
          other.half_h * sine,
          other.half_h * cosine};
}

CVLIB_HOST_DEVICE double intersection(const RotatedBox& a, const RotatedBox& b) {
  const bool in_order = comes_first(a, b);
  const RotatedBox own = choose(in_order, a, b), other = choose(in_order, b, a);
  const RelativeBox r = in_axes_of(own, other);
  const EdgeDirection along_w = edge_direction(2.0 * r.wx, 2.0 * r.wy, own.half_w, own.half_h);
  const EdgeDirection along_h = edge_direction(2.0 * r.hx, 2.0 * r.hy, own.half_w, own.half_h);
  const double left_x = r.x - r.wx, left_y = r.y - r.wy;
  const double right_x = r.x + r.wx, right_y = r.y + r.wy;
  const double top = integral_along(left_x - r.hx, left_y - r.hy, along_w, own.half_h);
  const double bottom = integral_along(left_x + r.hx, left_y + r.hy, along_w, own.half_h);
  const double left = integral_along(left_x - r.hx, left_y - r.hy, along_h, own.half_h);
  const double right = integral_along(right_x - r.hx, right_y - r.hy, along_h, own.half_h);
  const double shared = (bottom - top) + (left - right);
  const double rounding = kRounding * (own.span + other.span) * own.span;
  return shared > rounding ? smaller(shared, largest_intersection(a, b)) : 0.0;
}

// 0/0, inf/inf and NaN give 0.
CVLIB_HOST_DEVICE double iou(const RotatedBox& a, const RotatedBox& b) {
  const double shared = intersection(a, b);
  const double value = shared / (a.area + b.area - shared);
  return value > 0.0 ? value : 0.0;
}

// The only place that decides whether one rotated box suppresses another.
template <class T>
CVLIB_HOST_DEVICE bool overlaps(const RotatedBox& a, const RotatedBox& b, T threshold) {
  return static_cast<T>(iou(a, b)) > threshold;
}

// An upper bound of the IoU below this value proves that the rounded IoU is not above the
// threshold.
inline double surely_below(double iou_threshold) { return iou_threshold * (1.0 - 1e-6); }

}  // namespace cvlib
