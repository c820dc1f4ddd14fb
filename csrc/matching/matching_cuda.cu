// match_anchors on CUDA (algorithm: match_cuda.cuh).
#include "../checks.h"
#include "match_cuda.cuh"

namespace cvlib {
namespace {

Tensor match_anchors_cuda(const Tensor& anchors_in, const Tensor& gt_boxes_in,
                          double iou_threshold) {
  check_boxes(anchors_in, 2);
  check_boxes(gt_boxes_in, 3);
  check_same_dtype(anchors_in, gt_boxes_in);
  const DeviceGuard guard(anchors_in.get_device_index());
  const Tensor anchors = as_real(anchors_in), gt_boxes = as_real(gt_boxes_in);
  const int64_t batch = gt_boxes.size(0);
  const Tensor matched = unmatched(anchors, batch, anchors.size(0));
  dispatch_floating(anchors.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const PaddedBoxes<T> gts{data<T>(gt_boxes), gt_boxes.size(1), 4};
    launch_match(anchors, gts, batch, iou_threshold, matched, current_stream(anchors));
  });
  return matched;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("match_anchors", TORCH_BOX(&cvlib::match_anchors_cuda));
}
