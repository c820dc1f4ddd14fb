// Gradient of the IoU of a pair by position, size and angle of its first box. Shared by CPU and
// CUDA.
//
// When an outline moves, the area changes by the integral of its normal velocity. Only the parts of
// the first box's edges inside the second box matter: one interval on each of four edges.
#pragma once

#include "rotated_math.h"

namespace cvlib {

// Derivatives by centre, sides and angle (in degrees).
struct RotatedGradient {
  double x, y, w, h, angle;
};

// The part of an edge inside the other box: its length, and the integral of the position along the
// edge, measured from the edge's centre.
struct EdgePart {
  double length, moment;
};

// An edge on an edge of the other box, within `slack`, counts half, as in torch.minimum: the IoU
// has a kink there.
CVLIB_HOST_DEVICE EdgePart part_inside(double x, double y, const EdgeDirection& edge, double length,
                                       const RotatedBox& other, double slack) {
  const double centre_x = -x * edge.per_x, centre_y = -y * edge.per_y;
  const double begin = larger(larger(centre_x - edge.reach_x, centre_y - edge.reach_y), 0.0);
  const double end = smaller(smaller(centre_x + edge.reach_x, centre_y + edge.reach_y), 1.0);
  const bool on_x = (std::abs(edge.dx) <= slack) & (std::abs(std::abs(x) - other.half_w) <= slack);
  const bool on_y = (std::abs(edge.dy) <= slack) & (std::abs(std::abs(y) - other.half_h) <= slack);
  const double inside = larger(end - begin, 0.0) * length;
  const double counted = on_x | on_y ? 0.5 * inside : inside;
  return {counted, counted * length * (0.5 * (begin + end) - 0.5)};
}

// IoU = I / U with U = A + B - I, so dIoU = dI (A + B) / U^2 - dA I / U^2.
CVLIB_HOST_DEVICE RotatedGradient iou_gradient(const RotatedBox& box, const RotatedBox& other) {
  const double shared = intersection(box, other);
  const double total = box.area + other.area, joined = total - shared;
  const double slack = 4.0 * kRounding * (box.span + other.span);
  const RelativeBox r = in_axes_of(other, box);
  const double wide = other.half_w + slack, high = other.half_h + slack;
  const EdgeDirection along_w = edge_direction(2.0 * r.wx, 2.0 * r.wy, wide, high);
  const EdgeDirection along_h = edge_direction(2.0 * r.hx, 2.0 * r.hy, wide, high);
  const double w = 2.0 * box.half_w, h = 2.0 * box.half_h;
  const double left_x = r.x - r.wx, left_y = r.y - r.wy;
  const double right_x = r.x + r.wx, right_y = r.y + r.wy;
  const EdgePart top = part_inside(left_x - r.hx, left_y - r.hy, along_w, w, other, slack);
  const EdgePart bottom = part_inside(left_x + r.hx, left_y + r.hy, along_w, w, other, slack);
  const EdgePart left = part_inside(left_x - r.hx, left_y - r.hy, along_h, h, other, slack);
  const EdgePart right = part_inside(right_x - r.hx, right_y - r.hy, along_h, h, other, slack);
  const bool counts = (smaller(shared, joined) > 0.0) & (total < static_cast<double>(INFINITY));
  const double per_shared = counts ? total / joined / joined : 0.0;
  const double per_area = counts ? shared / joined / joined : 0.0;
  const double along_width = right.length - left.length;
  const double along_height = bottom.length - top.length;
  const double turn = (right.moment - left.moment) - (bottom.moment - top.moment);
  const RotatedGradient result{
      per_shared * (along_width * box.cosine + along_height * box.sine),
      per_shared * (along_height * box.cosine - along_width * box.sine),
      per_shared * (0.5 * (right.length + left.length)) - per_area * h,
      per_shared * (0.5 * (bottom.length + top.length)) - per_area * w,
      per_shared * turn * kRadiansPerDegree,
  };
  return {counts ? result.x : 0.0, counts ? result.y : 0.0, counts ? result.w : 0.0,
          counts ? result.h : 0.0, counts ? result.angle : 0.0};
}

}  // namespace cvlib
