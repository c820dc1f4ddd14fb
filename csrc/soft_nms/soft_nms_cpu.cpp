// Soft non-maximum suppression on the CPU, for one group of boxes or one per image and class.
//
// Leave out boxes below the score threshold, run each group on its own (soft_nms_core.h), groups in
// parallel, and sort the selections of all groups together. Memory is linear in the number of
// boxes. The result does not depend on the number of threads.
#include <algorithm>
#include <optional>
#include <tuple>

#include "../checks.h"
#include "../nms/arguments.h"
#include "../nms/groups.h"
#include "../nms/sort_scores.h"
#include "../parallel.h"
#include "soft_nms_core.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 256;

template <class T>
struct Selection {
  std::vector<int32_t> boxes;
  std::vector<T> scores;
};

// Writes the scores at selection into `decayed`, which holds kOut on entry.
template <class T>
void select_in_groups(const T* boxes, const T* scores, const Members& members,
                      const SoftDecay<T>& decay, bool gaussian, int64_t limit,
                      std::vector<T>& decayed) {
  for_each_group(members, kBoxesPerTask, [&](const int32_t* indices, int64_t size) {
    with_best_instructions([&] {
      SoftSuppressor<T> suppressor(boxes, scores, indices, size, decay);
      const auto select = [&](int32_t rank, T score) { decayed[indices[rank]] = score; };
      if (gaussian) {
        suppressor.template run<true>(limit, select);
      } else {
        suppressor.template run<false>(limit, select);
      }
    });
  });
}

// Best first. Scores of a group only fall from selection to selection, so within a group this is
// the order of selection.
template <class T>
Selection<T> sort_selected(const std::vector<int32_t>& candidates, const std::vector<T>& decayed) {
  std::vector<int32_t> selected;
  std::vector<T> scores;
  for (const int32_t i : candidates) {
    if (decayed[i] < T(0)) continue;
    selected.push_back(i);
    scores.push_back(decayed[i]);
  }
  Selection<T> sorted{selected, scores};
  const auto order = descending_order(scores.data(), static_cast<int64_t>(scores.size()));
  for (size_t rank = 0; rank < order.size(); ++rank) {
    sorted.boxes[rank] = selected[order[rank]];
    sorted.scores[rank] = scores[order[rank]];
  }
  return sorted;
}

template <class T>
void limit_per_image(const DenseIds& images, int64_t limit, Selection<T>& selection) {
  std::vector<int64_t> left(images.count, limit);
  size_t kept = 0;
  for (size_t rank = 0; rank < selection.boxes.size(); ++rank) {
    if (--left[images[selection.boxes[rank]]] < 0) continue;
    selection.boxes[kept] = selection.boxes[rank];
    selection.scores[kept++] = selection.scores[rank];
  }
  selection.boxes.resize(kept);
  selection.scores.resize(kept);
}

template <class T>
Selection<T> soft_nms(const T* boxes, const T* scores, int64_t n, const int64_t* labels,
                      const int64_t* images, const SoftDecay<T>& decay, bool gaussian,
                      int64_t limit) {
  std::vector<int32_t> candidates;
  for (int64_t i = 0; i < n; ++i) {
    if (scores[i] >= decay.score_threshold) candidates.push_back(static_cast<int32_t>(i));
  }
  const DenseIds image_ids = make_dense(images, n), label_ids = make_dense(labels, n);
  const Members members = collect_members(candidates, combine(image_ids, label_ids));
  std::vector<T> decayed(n, kOut<T>);
  select_in_groups(boxes, scores, members, decay, gaussian, limit, decayed);
  Selection<T> selection = sort_selected(candidates, decayed);
  if (limit < n) limit_per_image(image_ids, limit, selection);
  return selection;
}

std::tuple<Tensor, Tensor> soft_nms_cpu(const Tensor& boxes_in, const Tensor& scores_in,
                                        std::optional<Tensor> labels_in,
                                        std::optional<Tensor> images_in, bool gaussian,
                                        double iou_threshold, double sigma, double score_threshold,
                                        int64_t max_output) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  check_box_count(boxes_in);
  const int64_t n = boxes_in.size(0);
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  const int64_t limit = output_limit(max_output, n);
  Tensor keep = boxes, decayed = scores;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    check_values(are_valid(data<T>(boxes), n) && has_no_nan(data<T>(scores), n));
    const auto decay = make_soft_decay<T>(iou_threshold, sigma, score_threshold);
    const Selection<T> selection = soft_nms(data<T>(boxes), data<T>(scores), n, id_data(labels),
                                            id_data(images), decay, gaussian, limit);
    const int64_t count = static_cast<int64_t>(selection.boxes.size());
    keep = empty(boxes, {count}, ScalarType::Long);
    decayed = empty(boxes, {count}, boxes.scalar_type());
    std::copy(selection.boxes.begin(), selection.boxes.end(), mutable_data<int64_t>(keep));
    std::copy(selection.scores.begin(), selection.scores.end(), mutable_data<T>(decayed));
  });
  return {keep, decayed};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) { m.impl("soft_nms", TORCH_BOX(&cvlib::soft_nms_cpu)); }
