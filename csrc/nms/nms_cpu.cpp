// Non-maximum suppression on the CPU, for one group of boxes or one per image and class.
//
// Sort (radix, O(n)), then each group on its own (nms_core.h), groups in parallel. Memory is linear
// in the number of boxes. The result does not depend on the number of threads.
#include <limits>
#include <optional>

#include "../checks.h"
#include "../parallel.h"
#include "../torch_compat.h"
#include "groups.h"
#include "nms_core.h"
#include "sort_scores.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 4096;

template <class T>
bool are_numbers(const T* values, int64_t n) {
  bool valid = true;
  for (int64_t i = 0; i < n; ++i) valid &= values[i] == values[i];
  return valid;
}

template <class T>
BoxArrays<T> gather(const T* boxes, const int32_t* indices, int64_t n) {
  BoxArrays<T> arrays(n);
  for (int64_t i = 0; i < n; ++i) {
    const T* b = boxes + 4 * static_cast<int64_t>(indices[i]);
    arrays.set(i, {b[0], b[1], b[2], b[3]});
  }
  return arrays;
}

// Flags kept boxes by rank, each group on its own.
template <class T>
std::vector<uint8_t> keep_per_group(const T* boxes, const std::vector<int32_t>& order,
                                    const DenseIds& groups, double threshold, int64_t max_output) {
  const int64_t n = static_cast<int64_t>(order.size());
  std::vector<int64_t> start(groups.count + 1, 0);
  for (int64_t i = 0; i < n; ++i) ++start[groups.ids[i] + 1];
  for (int64_t g = 0; g < groups.count; ++g) start[g + 1] += start[g];
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  std::vector<int32_t> rank_at(n), index_at(n);
  for (int64_t rank = 0; rank < n; ++rank) {
    const int64_t place = next[groups.ids[order[rank]]]++;
    rank_at[place] = static_cast<int32_t>(rank);
    index_at[place] = order[rank];
  }
  std::vector<uint8_t> keep_at(n, 0), keep(n, 0);
  const int64_t groups_per_task = kBoxesPerTask * groups.count / (n + 1) + 1;
  parallel_for(groups.count, groups_per_task, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const BoxArrays<T> own = gather(boxes, index_at.data() + start[g], start[g + 1] - start[g]);
      with_best_instructions(
          [&] { nms_sorted(own, threshold, max_output, keep_at.data() + start[g]); });
    }
  });
  for (int64_t place = 0; place < n; ++place) keep[rank_at[place]] = keep_at[place];
  return keep;
}

template <class T>
std::vector<uint8_t> keep_in_one_group(const T* boxes, const std::vector<int32_t>& order,
                                       double threshold, int64_t max_output) {
  const int64_t n = static_cast<int64_t>(order.size());
  std::vector<uint8_t> keep(n, 0);
  with_best_instructions([&] {
    const BoxArrays<T> sorted = gather(boxes, order.data(), n);
    nms_sorted(sorted, threshold, max_output, keep.data());
  });
  return keep;
}

// Drops kept boxes beyond max_output of each image.
void limit_per_image(const std::vector<int32_t>& order, const DenseIds& images, int64_t max_output,
                     std::vector<uint8_t>& keep) {
  std::vector<int64_t> left(images.count, max_output);
  for (size_t rank = 0; rank < keep.size(); ++rank) {
    if (keep[rank] && --left[images.ids[order[rank]]] < 0) keep[rank] = 0;
  }
}

Tensor kept_indices(const Tensor& like, const std::vector<int32_t>& order,
                    const std::vector<uint8_t>& keep) {
  int64_t count = 0;
  for (const uint8_t flag : keep) count += flag;
  Tensor out = empty(like, {count}, ScalarType::Long);
  int64_t* indices = mutable_data<int64_t>(out);
  for (size_t rank = 0; rank < keep.size(); ++rank) {
    if (keep[rank]) *indices++ = order[rank];
  }
  return out;
}

std::optional<Tensor> contiguous_ids(const std::optional<Tensor>& ids, int64_t n) {
  if (!ids.has_value()) return std::nullopt;
  STD_TORCH_CHECK(ids->dim() == 1 && ids->size(0) == n && ids->scalar_type() == ScalarType::Long,
                  "nms: expected int64 ids, one for each box");
  return as_contiguous(*ids);
}

Tensor nms_cpu(const Tensor& boxes_in, const Tensor& scores_in, std::optional<Tensor> labels_in,
               std::optional<Tensor> images_in, double iou_threshold, int64_t max_output) {
  check_boxes(boxes_in, 2);
  check_same_dtype(boxes_in, scores_in);
  const int64_t n = boxes_in.size(0);
  STD_TORCH_CHECK(scores_in.dim() == 1 && scores_in.size(0) == n, "nms: expected a score per box");
  STD_TORCH_CHECK(n <= std::numeric_limits<int32_t>::max(), "nms: more than 2^31 - 1 boxes");
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  const int64_t limit = max_output < 0 ? n : max_output;
  Tensor out = boxes;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* box_data = data<T>(boxes);
    check_values(are_valid(box_data, n) && are_numbers(data<T>(scores), n));
    const std::vector<int32_t> order = descending_order(data<T>(scores), n);
    if (!labels && !images) {
      out = kept_indices(boxes, order, keep_in_one_group(box_data, order, iou_threshold, limit));
      return;
    }
    const DenseIds image_ids = make_dense(images ? data<int64_t>(*images) : nullptr, n);
    const DenseIds label_ids = make_dense(labels ? data<int64_t>(*labels) : nullptr, n);
    const DenseIds groups = combine(image_ids, label_ids);
    std::vector<uint8_t> keep = keep_per_group(box_data, order, groups, iou_threshold, limit);
    if (limit < n) limit_per_image(order, image_ids, limit, keep);
    out = kept_indices(boxes, order, keep);
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) { m.impl("nms", TORCH_BOX(&cvlib::nms_cpu)); }
