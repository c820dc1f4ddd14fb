// What one pair contributes to the gradient of its first box. Shared by CPU and CUDA.
#pragma once

#include "../box_math.h"

namespace cvlib {

// 1 where `mine` alone decides an edge of the intersection, 1/2 where both boxes share the edge
// (the convention of torch.minimum and torch.maximum), 0 elsewhere.
template <class T>
CVLIB_HOST_DEVICE T edge_share(T mine, T other, bool mine_decides) {
  return mine == other ? T(0.5) : (mine_decides ? T(1) : T(0));
}

// IoU = I / U with U = A + B - I, so dIoU = dI (A + B) / U^2 - dA I / U^2.
template <class T>
CVLIB_HOST_DEVICE void add_iou_gradient(T grad, const Box<T>& box, const Box<T>& other,
                                        Box<T>& sum) {
  const T width = smaller(box.x2, other.x2) - larger(box.x1, other.x1);
  const T height = smaller(box.y2, other.y2) - larger(box.y1, other.y1);
  const T shared = larger(width, T(0)) * larger(height, T(0));
  const T total = area(box) + area(other);
  const T joined = total - shared;
  if (!(shared > T(0)) || !(joined > T(0))) return;
  const T scale = grad / (joined * joined);
  const T grad_shared = scale * total;
  const T grad_area = -scale * shared;
  const T along_x = grad_shared * height, along_y = grad_shared * width;
  const T side_x = grad_area * (box.y2 - box.y1), side_y = grad_area * (box.x2 - box.x1);
  sum.x1 -= along_x * edge_share(box.x1, other.x1, box.x1 > other.x1) + side_x;
  sum.x2 += along_x * edge_share(box.x2, other.x2, box.x2 < other.x2) + side_x;
  sum.y1 -= along_y * edge_share(box.y1, other.y1, box.y1 > other.y1) + side_y;
  sum.y2 += along_y * edge_share(box.y2, other.y2, box.y2 < other.y2) + side_y;
}

}  // namespace cvlib
