// Non-maximum suppression of rotated boxes on the CPU, for one group or one per image and class.
//
// Sort by score (radix, O(n)), then suppress each group on its own (nms_rotated_core.h), groups in
// parallel. Memory is linear in the number of boxes. The result does not depend on the number of
// threads.
#include <optional>
#include <vector>

#include "../nms/arguments.h"
#include "../nms/groups.h"
#include "../nms/keep_flags.h"
#include "../nms/sort_scores.h"
#include "../parallel.h"
#include "checks.h"
#include "nms_rotated_core.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 512;

// Indices of the kept boxes, best first. `labels` and `images` may be null.
template <class T>
Tensor nms_rotated(const Tensor& like, const T* boxes, const T* scores, int64_t n,
                   const int64_t* labels, const int64_t* images, double iou_threshold,
                   int64_t max_output) {
  const std::vector<int32_t> order = descending_order(scores, n);
  const DenseIds image_ids = make_dense(images, n);
  const DenseIds groups = combine(image_ids, make_dense(labels, n));
  const auto suppress = [&](const int32_t* indices, int64_t size, uint8_t* keep) {
    RotatedArrays sorted(size);
    with_best_instructions([&] {
      fill(sorted, boxes, indices, size);
      nms_rotated_sorted<T>(sorted, iou_threshold, max_output, keep);
    });
  };
  std::vector<uint8_t> keep = keep_per_group(order, groups, kBoxesPerTask, suppress);
  if (max_output < n && groups.count > 1) limit_per_image(order, image_ids, max_output, keep);
  return kept_indices(like, order, keep);
}

Tensor nms_rotated_cpu(const Tensor& boxes_in, const Tensor& scores_in,
                       std::optional<Tensor> labels_in, std::optional<Tensor> images_in,
                       double iou_threshold, int64_t max_output) {
  check_rotated_boxes(boxes_in);
  check_scores(scores_in, boxes_in);
  check_box_count(boxes_in);
  const int64_t n = boxes_in.size(0);
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  Tensor out = boxes;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    check_values(are_rotated_boxes(data<T>(boxes), n) && has_no_nan(data<T>(scores), n));
    out = nms_rotated(boxes, data<T>(boxes), data<T>(scores), n, id_data(labels), id_data(images),
                      iou_threshold, output_limit(max_output, n));
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("nms_rotated", TORCH_BOX(&cvlib::nms_rotated_cpu));
}
