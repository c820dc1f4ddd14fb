// Non-maximum suppression of rotated boxes on CUDA.
//
// The algorithm of nms (nms_core.cuh) with a rule for rotated boxes, which ends most pairs at cheap
// bounds. Work: kept x N pairs; memory is linear in N. One host synchronisation, for the length of
// the result.
#include <optional>

#include "../cuda_aten.cuh"
#include "../nms/arguments.h"
#include "../nms/keep_flags.cuh"
#include "checks.h"
#include "prepare_rotated.cuh"

namespace cvlib {
namespace {

// The bounds exclude only pairs whose IoU, as rotated_math.h computes it, is not above the
// threshold.
template <class T>
struct RotatedRule {
  using BoxType = RotatedBox;
  static constexpr int kFields = 5;
  static constexpr int kTile = 256;

  T threshold;
  double surely_below;

  static __device__ BoxType read(const T* row) { return read_rotated_box(row); }
  static __device__ bool row_has_nan(const T* row) {
    return is_nan(row[0]) || is_nan(row[1]) || is_nan(row[2]) || is_nan(row[3]) || is_nan(row[4]);
  }
  __device__ bool may_overlap(const RotatedBox& a, const RotatedBox& b) const {
    return are_near(a, b);
  }
  __device__ bool overlap(const RotatedBox& a, const RotatedBox& b) const {
    const double most = largest_intersection(a, b);
    if (!(most > 0.0) || !(most > surely_below * (a.area + b.area - most))) return false;
    return overlaps(a, b, threshold);
  }
};

Tensor nms_rotated_cuda(const Tensor& boxes_in, const Tensor& scores_in,
                        std::optional<Tensor> labels_in, std::optional<Tensor> images_in,
                        double iou_threshold, int64_t max_output) {
  check_rotated_boxes(boxes_in);
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
    const RotatedRule<T> rule{round_down<T>(iou_threshold), surely_below(iou_threshold)};
    keep = keep_flags<T>(rule, boxes, scores, labels, images, order, output_limit(max_output, n));
  });
  return masked_select(order, keep);
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("nms_rotated", TORCH_BOX(&cvlib::nms_rotated_cuda));
}
