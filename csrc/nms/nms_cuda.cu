// Non-maximum suppression on CUDA, for one group of boxes or one per image and class.
//
// Sort by score, gather by rank, suppress tile by tile (nms_core.cuh), limit per image, compact.
// Work: kept x N pairs; memory is linear in N. One host synchronisation, for the length of the
// result.
#include <optional>

#include "../checks.h"
#include "../cuda_aten.cuh"
#include "../cuda_launch.cuh"
#include "../torch_compat.h"
#include "arguments.h"
#include "keep_flags.cuh"
#include "nms_core.cuh"

namespace cvlib {
namespace {

Tensor nms_cuda(const Tensor& boxes_in, const Tensor& scores_in, std::optional<Tensor> labels_in,
                std::optional<Tensor> images_in, double iou_threshold, int64_t max_output) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  const int64_t n = boxes_in.size(0);
  const DeviceGuard guard(boxes_in.get_device_index());
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  if (n == 0) return empty(boxes, {0}, ScalarType::Long);
  const Tensor order = sort_descending(scores).second;
  Tensor keep = order;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const UprightRule<T> rule{round_down<T>(iou_threshold)};
    keep = keep_flags<T>(rule, boxes, scores, labels, images, order, output_limit(max_output, n));
  });
  return masked_select(order, keep);
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) { m.impl("nms", TORCH_BOX(&cvlib::nms_cuda)); }
