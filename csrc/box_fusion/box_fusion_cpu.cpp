// Weighted boxes fusion on the CPU.
//
// Boxes are sorted by weighted score and grouped by image and label, groups in parallel. In its
// group each box, best first, is compared with all clusters so far in one vectorised loop, and
// joins the one that it overlaps most or starts a new one. Work: boxes x clusters per group; memory
// is linear in the number of boxes. The result does not depend on the number of threads.
#include <bit>
#include <optional>
#include <tuple>

#include "../box_soa.h"
#include "../checks.h"
#include "../nms/arguments.h"
#include "../nms/groups.h"
#include "../nms/sort_scores.h"
#include "../parallel.h"
#include "arguments.h"
#include "cluster.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 256;

// The boxes of all models, in float64.
struct Candidates {
  std::vector<Candidate> all;  // by input index; only those in `order` are set
  std::vector<int32_t> order;  // indices of boxes from the score threshold on, best first
};

template <class T>
Candidates collect_candidates(const T* boxes, const T* scores, const int64_t* models,
                              const double* weights, int64_t n, double score_threshold) {
  Candidates candidates;
  candidates.all.resize(n);
  std::vector<int32_t> indices;
  std::vector<double> weighted;
  for (int64_t i = 0; i < n; ++i) {
    if (!(static_cast<double>(scores[i]) >= score_threshold)) continue;
    const T* b = boxes + 4 * i;
    const double score = static_cast<double>(scores[i]) * weights[models[i]];
    candidates.all[i] = {{b[0], b[1], b[2], b[3]}, score, models[i]};
    indices.push_back(static_cast<int32_t>(i));
    weighted.push_back(score);
  }
  candidates.order = descending_order(weighted.data(), static_cast<int64_t>(weighted.size()));
  for (auto& index : candidates.order) index = indices[index];
  return candidates;
}

// The clusters of one group, with their fused boxes as arrays for the search.
class Clusters {
 public:
  explicit Clusters(int64_t capacity) : fused_(capacity), overlap_(capacity) {
    clusters_.reserve(capacity);
  }

  void add(const Candidate& candidate, int32_t index, const FusionSettings& settings) {
    const double weight = settings.weights[candidate.model];
    int64_t at = most_overlapping(candidate.box, settings.iou_threshold);
    if (at < 0) {
      at = count();
      clusters_.push_back(start_cluster(candidate, weight));
      first_.push_back(index);
    } else {
      join_cluster(clusters_[at], candidate, weight);
    }
    fused_.set(at, clusters_[at].fused);
  }

  int64_t count() const { return static_cast<int64_t>(clusters_.size()); }
  const Cluster& operator[](int64_t i) const { return clusters_[i]; }
  int32_t first(int64_t i) const { return first_[i]; }

 private:
  // The oldest cluster among those with the largest IoU above the threshold, or -1.
  int64_t most_overlapping(const Box<double>& box, double threshold) {
    const double* __restrict x1 = fused_.x1;
    const double* __restrict y1 = fused_.y1;
    const double* __restrict x2 = fused_.x2;
    const double* __restrict y2 = fused_.y2;
    const double* __restrict areas = fused_.areas;
    double* __restrict overlap = overlap_.data();
    const double box_area = area(box);
    const int64_t n = count();
    // As bits, which order like the numbers from 0 on: an integer maximum vectorises.
    int64_t largest_bits = 0;
    for (int64_t j = 0; j < n; ++j) {
      overlap[j] = iou(box, box_area, Box<double>{x1[j], y1[j], x2[j], y2[j]}, areas[j]);
      const int64_t bits = std::bit_cast<int64_t>(overlap[j]);
      largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    const double largest = std::bit_cast<double>(largest_bits);
    if (!(largest > threshold)) return -1;
    return std::find(overlap, overlap + n, largest) - overlap;
  }

  std::vector<Cluster> clusters_;
  std::vector<int32_t> first_;  // input index of the box that started it
  BoxArrays<double> fused_;
  std::vector<double> overlap_;
};

// Results by the input index of the box that started the cluster.
struct Fused {
  std::vector<Box<double>> boxes;
  std::vector<double> scores;
  std::vector<uint8_t> is_start;

  explicit Fused(int64_t n) : boxes(n), scores(n), is_start(n, 0) {}
};

void fuse_groups(const Candidates& candidates, const Members& members,
                 const FusionSettings& settings, Fused& fused) {
  for_each_group(members, kBoxesPerTask, [&](const int32_t* indices, int64_t size) {
    with_best_instructions([&] {
      Clusters clusters(size);
      for (int64_t k = 0; k < size; ++k) {
        clusters.add(candidates.all[indices[k]], indices[k], settings);
      }
      for (int64_t c = 0; c < clusters.count(); ++c) {
        const int32_t i = clusters.first(c);
        fused.boxes[i] = clusters[c].fused;
        fused.scores[i] = fused_score(clusters[c], settings);
        fused.is_start[i] = 1;
      }
    });
  });
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Highest fused score first; equal scores in the order of their first boxes.
template <class T>
Outputs write_sorted(const Tensor& like, const Fused& fused, const int64_t* labels,
                     const int64_t* images) {
  std::vector<int32_t> starts;
  std::vector<double> scores;
  for (size_t i = 0; i < fused.is_start.size(); ++i) {
    if (!fused.is_start[i]) continue;
    starts.push_back(static_cast<int32_t>(i));
    scores.push_back(fused.scores[i]);
  }
  const int64_t count = static_cast<int64_t>(starts.size());
  const std::vector<int32_t> order = descending_order(scores.data(), count);
  Tensor boxes = empty(like, {count, 4}, like.scalar_type());
  Tensor out_scores = empty(like, {count}, like.scalar_type());
  Tensor out_labels = empty(like, {count}, ScalarType::Long);
  Tensor out_images = empty(like, {images ? count : 0}, ScalarType::Long);
  for (int64_t rank = 0; rank < count; ++rank) {
    const int32_t i = starts[order[rank]];
    const Box<double>& box = fused.boxes[i];
    write_box(Box<T>{T(box.x1), T(box.y1), T(box.x2), T(box.y2)},
              mutable_data<T>(boxes) + 4 * rank);
    mutable_data<T>(out_scores)[rank] = T(fused.scores[i]);
    mutable_data<int64_t>(out_labels)[rank] = labels[i];
    if (images) mutable_data<int64_t>(out_images)[rank] = images[i];
  }
  return {boxes, out_scores, out_labels, out_images};
}

Outputs weighted_boxes_fusion_cpu(const Tensor& boxes_in, const Tensor& scores_in,
                                  const Tensor& labels_in, const Tensor& models_in,
                                  const Tensor& weights_in, std::optional<Tensor> images_in,
                                  double iou_threshold, double score_threshold, int64_t confidence,
                                  bool allows_overflow) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  check_box_count(boxes_in);
  check_weights(weights_in);
  const int64_t n = boxes_in.size(0);
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const Tensor weights = as_contiguous(weights_in);
  const auto labels = contiguous_ids(labels_in, n), models = contiguous_ids(models_in, n);
  const auto images = contiguous_ids(images_in, n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t model = id_data(models)[i];
    STD_TORCH_CHECK(model >= 0 && model < weights.size(0),
                    "weighted_boxes_fusion: expected models from 0 to the number of weights - 1");
  }
  Outputs out{boxes, scores, labels_in, models_in};
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    check_values(are_valid(data<T>(boxes), n) && has_no_nan(data<T>(scores), n));
    const Candidates candidates =
        collect_candidates(data<T>(boxes), data<T>(scores), id_data(models), data<double>(weights),
                           n, score_threshold);
    const DenseIds groups = combine(make_dense(id_data(images), n), make_dense(id_data(labels), n));
    Fused fused(n);
    fuse_groups(
        candidates, collect_members(candidates.order, groups),
        with_weight_sums(make_settings(weights, iou_threshold, confidence, allows_overflow)),
        fused);
    out = write_sorted<T>(boxes, fused, id_data(labels), id_data(images));
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("weighted_boxes_fusion", TORCH_BOX(&cvlib::weighted_boxes_fusion_cpu));
}
