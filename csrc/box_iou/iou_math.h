// Similarities of two boxes and their gradients. Shared by CPU and CUDA.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "../box_math.h"

namespace cvlib {

// Values as in cvlib/ops/_similarity.py.
enum class IouKind : int64_t { kPlain = 0, kGeneralized = 1, kDistance = 2, kComplete = 3 };

// Replaces NaN and numbers that rounding has made negative by 0.
template <class T>
CVLIB_HOST_DEVICE T positive(T value) {
  return value > T(0) ? value : T(0);
}

// atan(ratio) for ratio in [0, 1]. Above tan(pi / 8) it is pi / 4 + atan((r - 1) / (r + 1)), so
// that |t| < .4143 in the series sum (-1)^k t^(2k + 1) / (2k + 1), whose remainder is below the
// dtype's precision.
template <class T>
CVLIB_HOST_DEVICE T arctangent(T ratio) {
  constexpr int kTerms = sizeof(T) == 4 ? 9 : 20;
  const bool reduce = ratio > T(0.41421356237309503);
  const T t = reduce ? (ratio - T(1)) / (ratio + T(1)) : ratio;
  const T square = t * t;
  T sum = T(1) / T(2 * kTerms - 1);
  for (int k = kTerms - 2; k >= 0; --k) sum = T(1) / T(2 * k + 1) - square * sum;
  return sum * t + (reduce ? T(0.78539816339744831) : T(0));
}

// The angle of the diagonal, atan(width / height), in [0, pi / 2]; 0 for a point.
template <class T>
CVLIB_HOST_DEVICE T aspect_angle(const Box<T>& box) {
  const T width = larger(box.x2 - box.x1, T(0)), height = larger(box.y2 - box.y1, T(0));
  const T angle = arctangent(positive(smaller(width, height) / larger(width, height)));
  return width > height ? T(1.5707963267948966) - angle : angle;
}

// A box with its area, and for kComplete its angle, computed once for all pairs.
template <class T>
struct Measured {
  Box<T> box;
  T area, angle;
};

template <IouKind kKind, class T>
CVLIB_HOST_DEVICE Measured<T> measure_box(const Box<T>& box) {
  return {box, area(box), kKind == IouKind::kComplete ? aspect_angle(box) : T(0)};
}

template <class T>
struct Size {
  T width, height;
};

// Size of the smallest box around both.
template <class T>
CVLIB_HOST_DEVICE Size<T> hull_size(const Box<T>& a, const Box<T>& b) {
  return {larger(a.x2, b.x2) - smaller(a.x1, b.x1), larger(a.y2, b.y2) - smaller(a.y1, b.y1)};
}

// Distance of the centres, from differences of corners to stay exact far from the origin.
template <class T>
CVLIB_HOST_DEVICE Size<T> center_distance(const Box<T>& a, const Box<T>& b) {
  return {((a.x1 - b.x1) + (a.x2 - b.x2)) * T(0.5), ((a.y1 - b.y1) + (a.y2 - b.y2)) * T(0.5)};
}

constexpr double kFourOverPiSquared = 0.40528473456935109;

// Difference of the aspect ratios, in [0, 1], and its weight.
template <class T>
struct AspectTerm {
  T difference, weight;
};

template <class T>
CVLIB_HOST_DEVICE AspectTerm<T> aspect_term(T angle_a, T angle_b, T plain_iou) {
  const T turn = angle_a - angle_b;
  const T difference = T(kFourOverPiSquared) * turn * turn;
  return {difference, positive(difference / (T(1) - plain_iou + difference))};
}

template <IouKind kKind, class T>
CVLIB_HOST_DEVICE T similarity(const Measured<T>& a, const Measured<T>& b) {
  const T plain = iou(a.box, a.area, b.box, b.area);
  if constexpr (kKind == IouKind::kPlain) return plain;
  const Size<T> hull = hull_size(a.box, b.box);
  if constexpr (kKind == IouKind::kGeneralized) {
    const T joined = a.area + b.area - intersection(a.box, b.box);
    return plain - positive(T(1) - joined / (hull.width * hull.height));
  }
  const Size<T> apart = center_distance(a.box, b.box);
  const T distance = apart.width * apart.width + apart.height * apart.height;
  const T diagonal = hull.width * hull.width + hull.height * hull.height;
  T value = plain - positive(distance / diagonal);
  if constexpr (kKind == IouKind::kComplete) {
    const AspectTerm<T> aspect = aspect_term(a.angle, b.angle, plain);
    value -= aspect.weight * aspect.difference;
  }
  return value;
}

// 1 if `own` alone determines an edge, 1/2 if both boxes share the edge (as in torch.minimum and
// torch.maximum), otherwise 0.
template <class T>
CVLIB_HOST_DEVICE T edge_share(T own, T other, bool own_decides) {
  return own == other ? T(0.5) : (own_decides ? T(1) : T(0));
}

// Whether a gradient may be divided by this area. Close to the smallest normal number the quotient
// would be infinite; such boxes have no gradient.
template <class T>
CVLIB_HOST_DEVICE bool is_measurable(T area) {
  return area > std::numeric_limits<T>::min() * T(1000) && area - area == T(0);
}

// 0 for a weight of 0, even if the length is infinite.
template <class T>
CVLIB_HOST_DEVICE T times(T weight, T length) {
  return weight == T(0) ? T(0) : weight * length;
}

template <class T>
CVLIB_HOST_DEVICE void add(Box<T>& sum, T x1, T y1, T x2, T y2) {
  sum.x1 += x1;
  sum.y1 += y1;
  sum.x2 += x2;
  sum.y2 += y2;
}

// Adds grad * d(similarity) / d(corners of a) to `sum`. The weight of the aspect term counts as a
// constant, as in its paper.
//
// IoU = I / U with U = A + B - I, so dIoU = (dI (A + B) / U - dA I / U) / U. The generalised IoU
// adds d(U / C) with the hull's area C. The distance IoU subtracts d(D / E) with the squared
// distance D and the hull's squared diagonal E.
template <IouKind kKind, class T>
CVLIB_HOST_DEVICE void add_gradient(T grad, const Measured<T>& a, const Measured<T>& b,
                                    Box<T>& sum) {
  const Box<T>& own = a.box;
  const Box<T>& other = b.box;
  const T width = larger(smaller(own.x2, other.x2) - larger(own.x1, other.x1), T(0));
  const T height = larger(smaller(own.y2, other.y2) - larger(own.y1, other.y1), T(0));
  const T shared = width * height;
  const T total = a.area + b.area;
  const T joined = total - shared;
  const bool overlap = shared > T(0) && is_measurable(joined);
  const T scale = overlap ? grad / joined : T(0);
  T per_shared = overlap ? scale * (total / joined) : T(0);
  T per_area = overlap ? -scale * (shared / joined) : T(0);

  const T low_x = edge_share(own.x1, other.x1, own.x1 > other.x1);
  const T low_y = edge_share(own.y1, other.y1, own.y1 > other.y1);
  const T high_x = edge_share(own.x2, other.x2, own.x2 < other.x2);
  const T high_y = edge_share(own.y2, other.y2, own.y2 < other.y2);

  if constexpr (kKind != IouKind::kPlain) {
    const Size<T> hull = hull_size(own, other);
    T per_width, per_height;  // derivatives by the sides of the hull
    if constexpr (kKind == IouKind::kGeneralized) {
      const T hull_area = hull.width * hull.height;
      const T per_union = is_measurable(hull_area) ? grad / hull_area : T(0);
      per_shared -= overlap ? per_union : T(0);
      per_area += per_union;
      const T per_hull = is_measurable(hull_area) ? -per_union * (joined / hull_area) : T(0);
      per_width = times(per_hull, hull.height);
      per_height = times(per_hull, hull.width);
    } else {
      const Size<T> apart = center_distance(own, other);
      const T distance = apart.width * apart.width + apart.height * apart.height;
      const T diagonal = hull.width * hull.width + hull.height * hull.height;
      const bool is_valid = is_measurable(diagonal);
      const T per_distance = is_valid ? -grad / diagonal : T(0);
      const T per_diagonal = is_valid ? -per_distance * (distance / diagonal) : T(0);
      per_width = times(per_diagonal * T(2), hull.width);
      per_height = times(per_diagonal * T(2), hull.height);
      const T along_x = times(per_distance, apart.width);
      const T along_y = times(per_distance, apart.height);
      add(sum, along_x, along_y, along_x, along_y);
    }
    // The box whose edge bounds the intersection does not bound the hull there.
    add(sum, -per_width * (T(1) - low_x), -per_height * (T(1) - low_y), per_width * (T(1) - high_x),
        per_height * (T(1) - high_y));
  }
  const T own_width = own.x2 - own.x1, own_height = own.y2 - own.y1;
  if constexpr (kKind == IouKind::kComplete) {
    const T plain = iou(own, a.area, other, b.area);
    const AspectTerm<T> aspect = aspect_term(a.angle, b.angle, plain);
    const T square = own_width * own_width + own_height * own_height;
    const T turn = T(2 * kFourOverPiSquared) * (a.angle - b.angle);
    const T per_turn = is_measurable(square) ? -grad * aspect.weight * turn / square : T(0);
    const T per_width = times(per_turn, own_height), per_height = times(-per_turn, own_width);
    add(sum, -per_width, -per_height, per_width, per_height);
  }
  const T along_x = times(per_shared, height), along_y = times(per_shared, width);
  const T side_x = times(per_area, own_height), side_y = times(per_area, own_width);
  add(sum, -(along_x * low_x + side_x), -(along_y * low_y + side_y), along_x * high_x + side_x,
      along_y * high_y + side_y);
}

// The message of check_kind in cvlib/ops/_similarity.py, word for word.
inline void check_kind(int64_t kind) {
  STD_TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(IouKind::kComplete),
                  "expected kind of IoU from 0 to 3, got ", kind);
}

// Calls function(std::integral_constant<IouKind, kKind>{}) for a kind that has been checked.
template <class Function>
void dispatch_kind(int64_t kind, Function&& function) {
  switch (static_cast<IouKind>(kind)) {
    case IouKind::kGeneralized:
      return function(std::integral_constant<IouKind, IouKind::kGeneralized>{});
    case IouKind::kDistance:
      return function(std::integral_constant<IouKind, IouKind::kDistance>{});
    case IouKind::kComplete:
      return function(std::integral_constant<IouKind, IouKind::kComplete>{});
    default:
      return function(std::integral_constant<IouKind, IouKind::kPlain>{});
  }
}

}  // namespace cvlib
