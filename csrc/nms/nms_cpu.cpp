// Non-maximum suppression on the CPU, for one group of boxes or one per image and class.
//
// Sort by score (radix, O(n)), then suppress each group on its own (nms_core.h), groups in
// parallel. Memory is linear in the number of boxes. The result does not depend on the number of
// threads.
#include <optional>
#include <vector>

#include "../checks.h"
#include "../parallel.h"
#include "../torch_compat.h"
#include "arguments.h"
#include "groups.h"
#include "keep_flags.h"
#include "nms_core.h"
#include "sort_scores.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 4096;

template <class T>
BoxArrays<T> gather(const T* boxes, const int32_t* indices, int64_t n) {
  BoxArrays<T> arrays(n);
  for (int64_t i = 0; i < n; ++i) {
    arrays.set(i, read_box(boxes + 4 * static_cast<int64_t>(indices[i])));
  }
  return arrays;
}

// Indices of the kept boxes, best first. `labels` and `images` may be null.
template <class T>
Tensor nms(const Tensor& like, const T* boxes, const T* scores, int64_t n, const int64_t* labels,
           const int64_t* images, double iou_threshold, int64_t max_output) {
  const std::vector<int32_t> order = descending_order(scores, n);
  const DenseIds image_ids = make_dense(images, n);
  const DenseIds groups = combine(image_ids, make_dense(labels, n));
  const auto suppress = [&](const int32_t* indices, int64_t size, uint8_t* keep) {
    with_best_instructions(
        [&] { nms_sorted(gather(boxes, indices, size), iou_threshold, max_output, keep); });
  };
  std::vector<uint8_t> keep = keep_per_group(order, groups, kBoxesPerTask, suppress);
  if (max_output < n && groups.count > 1) limit_per_image(order, image_ids, max_output, keep);
  return kept_indices(like, order, keep);
}

Tensor nms_cpu(const Tensor& boxes_in, const Tensor& scores_in, std::optional<Tensor> labels_in,
               std::optional<Tensor> images_in, double iou_threshold, int64_t max_output) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  check_box_count(boxes_in);
  const int64_t n = boxes_in.size(0);
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  Tensor out = boxes;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    check_values(are_valid(data<T>(boxes), n) && has_no_nan(data<T>(scores), n));
    out = nms(boxes, data<T>(boxes), data<T>(scores), n, id_data(labels), id_data(images),
              iou_threshold, output_limit(max_output, n));
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) { m.impl("nms", TORCH_BOX(&cvlib::nms_cpu)); }
