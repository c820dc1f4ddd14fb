// Non-maximum suppression of rotated boxes on the CPU, for one group or one per image and class.
//
// Sort (radix, O(n)), then each group on its own (nms_rotated_core.h), groups in parallel. Memory
// is linear in the number of boxes. The result does not depend on the number of threads.
#include <limits>
#include <optional>

#include "../nms/arguments.h"
#include "../nms/members.h"
#include "../nms/sort_scores.h"
#include "../parallel.h"
#include "nms_rotated_core.h"
#include "rotated_checks.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 512;

// Flags kept boxes by index, each group on its own.
template <class T>
std::vector<uint8_t> keep_per_group(const T* boxes, const Members& members, double threshold,
                                    int64_t max_output) {
  const int64_t n = static_cast<int64_t>(members.boxes.size());
  std::vector<uint8_t> keep(n, 0);
  const int64_t groups_per_task = kBoxesPerTask * members.count() / (n + 1) + 1;
  parallel_for(members.count(), groups_per_task, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t size = members.size(group);
      const int32_t* indices = members.begin(group);
      std::vector<uint8_t> kept(size, 0);
      RotatedArrays own(size);
      with_best_instructions([&] {
        fill(own, boxes, indices, size);
        nms_rotated_sorted<T>(own, threshold, max_output, kept.data());
      });
      for (int64_t k = 0; k < size; ++k) keep[indices[k]] = kept[k];
    }
  });
  return keep;
}

// Drops kept boxes beyond max_output of each image.
void limit_per_image(const std::vector<int32_t>& order, const DenseIds& images, int64_t max_output,
                     std::vector<uint8_t>& keep) {
  std::vector<int64_t> left(images.count, max_output);
  for (const int32_t i : order) {
    if (keep[i] && --left[images.ids[i]] < 0) keep[i] = 0;
  }
}

Tensor kept_indices(const Tensor& like, const std::vector<int32_t>& order,
                    const std::vector<uint8_t>& keep) {
  int64_t count = 0;
  for (const uint8_t flag : keep) count += flag;
  Tensor out = empty(like, {count}, ScalarType::Long);
  int64_t* indices = mutable_data<int64_t>(out);
  for (const int32_t i : order) {
    if (keep[i]) *indices++ = i;
  }
  return out;
}

Tensor nms_rotated_cpu(const Tensor& boxes_in, const Tensor& scores_in,
                       std::optional<Tensor> labels_in, std::optional<Tensor> images_in,
                       double iou_threshold, int64_t max_output) {
  check_rotated_boxes(boxes_in);
  check_same_dtype(boxes_in, scores_in);
  const int64_t n = boxes_in.size(0);
  STD_TORCH_CHECK(scores_in.dim() == 1 && scores_in.size(0) == n,
                  "nms_rotated: expected a score per box");
  STD_TORCH_CHECK(n <= std::numeric_limits<int32_t>::max(),
                  "nms_rotated: more than 2^31 - 1 boxes");
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  const int64_t limit = max_output < 0 ? n : max_output;
  Tensor out = boxes;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* box_data = data<T>(boxes);
    check_values(are_rotated_boxes(box_data, n) && are_numbers(data<T>(scores), n));
    const std::vector<int32_t> order = descending_order(data<T>(scores), n);
    const DenseIds image_ids = make_dense(pointer(images), n);
    const DenseIds groups = combine(image_ids, make_dense(pointer(labels), n));
    const Members members = collect_members(order, groups);
    std::vector<uint8_t> keep = keep_per_group(box_data, members, iou_threshold, limit);
    if (limit < n) limit_per_image(order, image_ids, limit, keep);
    out = kept_indices(boxes, order, keep);
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("nms_rotated", TORCH_BOX(&cvlib::nms_rotated_cpu));
}
