// The book's multibox_target and multibox_detection on the CPU, a whole batch in one call.
//
// Target: matching (one IoU per anchor and ground truth), then one pass that writes class, offset
// and mask, 40 bytes per anchor in float32. Detection: best class, decoding and suppression of one
// image in cache, images in parallel.
#include <cmath>
#include <tuple>

#include "../checks.h"
#include "../matching/ground_truth.h"
#include "../matching/match_cpu.h"
#include "../nms/nms_core.h"
#include "../nms/sort_scores.h"
#include "../parallel.h"
#include "../torch_compat.h"

namespace cvlib {
namespace {

constexpr int64_t kLabelWidth = 5;      // class, x1, y1, x2, y2
constexpr int64_t kDetectionWidth = 6;  // class, confidence, x1, y1, x2, y2
// As in cvlib/_checks.py and cvlib/ops/multibox.py, whose messages explain the refusals.
constexpr double kLargestNormalised = 2, kSmallestPixels = 8;
template <class T>
constexpr T kLargestClass = T(1 << 24);

template <class T>
struct Targets {
  T* offsets;
  T* mask;
  int64_t* classes;
};

template <class T>
struct LabelledBoxes {
  std::vector<Box<T>> boxes;
  std::vector<int64_t> classes;

  void read(const T* labels, int64_t count) {
    boxes.clear();
    classes.clear();
    for (int64_t g = 0; g < count; ++g) {
      const T* row = labels + kLabelWidth * g;
      if (row[0] < T(0)) continue;
      boxes.push_back(read_box(row + 1));
      classes.push_back(static_cast<int64_t>(row[0]));
    }
  }
};

template <class T>
void write_targets(const T* anchors, const LabelledBoxes<T>& gts, const int32_t* matched,
                   int64_t num_anchors, Variances<T> variances, Targets<T> out) {
  for (int64_t a = 0; a < num_anchors; ++a) {
    const int32_t gt = matched[a];
    Box<T> offset{0, 0, 0, 0};
    if (gt >= 0) offset = encode_box(gts.boxes[gt], read_box(anchors + 4 * a), variances);
    out.classes[a] = gt >= 0 ? gts.classes[gt] + 1 : 0;
    T* o = out.offsets + 4 * a;
    o[0] = offset.x1, o[1] = offset.y1, o[2] = offset.x2, o[3] = offset.y2;
    T* m = out.mask + 4 * a;
    m[0] = m[1] = m[2] = m[3] = gt >= 0 ? T(1) : T(0);
  }
}

template <class T>
void target_images(const T* anchor_data, const BoxArrays<T>& anchors, const T* labels,
                   int64_t num_gt, T threshold, Variances<T> variances, int64_t begin, int64_t end,
                   Targets<T> out) {
  const int64_t n = anchors.size;
  MatchScratch<T> scratch;
  LabelledBoxes<T> gts;
  std::vector<int32_t> matched(n);
  for (int64_t b = begin; b < end; ++b) {
    gts.read(labels + b * num_gt * kLabelWidth, num_gt);
    match_image(anchors, gts.boxes.data(), static_cast<int64_t>(gts.boxes.size()), threshold,
                scratch, matched.data());
    write_targets(anchor_data, gts, matched.data(), n, variances,
                  Targets<T>{out.offsets + b * n * 4, out.mask + b * n * 4, out.classes + b * n});
  }
}

template <class T>
bool are_valid_labels(const T* labels, int64_t rows) {
  bool valid = true;
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = labels + kLabelWidth * r;
    const bool is_class =
        row[0] >= T(0) && row[0] <= kLargestClass<T> && row[0] == std::floor(row[0]);
    valid &= row[0] < T(0) || (is_class && are_valid(row + 1, 1));
  }
  return valid;
}

template <class T>
T largest_coordinate(const T* boxes, int64_t n) {
  T largest = 0;
  for (int64_t i = 0; i < 4 * n; ++i) largest = larger(largest, std::abs(boxes[i]));
  return largest;
}

// False when one side has pixels and the other fractions.
template <class T>
bool have_equal_units(const T* anchors, int64_t n, const T* labels, int64_t rows) {
  T boxes_extent = 0;
  bool has_boxes = false;
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = labels + kLabelWidth * r;
    if (row[0] < T(0)) continue;
    has_boxes = true;
    boxes_extent = larger(boxes_extent, largest_coordinate(row + 1, 1));
  }
  if (!has_boxes || n == 0) return true;
  const T anchors_extent = largest_coordinate(anchors, n);
  const bool pixels_on_fractions =
      anchors_extent <= T(kLargestNormalised) && boxes_extent > T(kSmallestPixels);
  const bool fractions_on_pixels = anchors_extent > T(kSmallestPixels) && boxes_extent <= T(1);
  return !pixels_on_fractions && !fractions_on_pixels;
}

std::tuple<Tensor, Tensor, Tensor> multibox_target_cpu(const Tensor& anchors_in,
                                                       const Tensor& labels_in,
                                                       double iou_threshold, double variance_x,
                                                       double variance_y, double variance_w,
                                                       double variance_h) {
  check_boxes(anchors_in, 2);
  check_same_dtype(anchors_in, labels_in);
  STD_TORCH_CHECK(labels_in.dim() == 3 && labels_in.size(2) == kLabelWidth,
                  "multibox_target: expected labels of shape (B, M, 5)");
  const Tensor anchors = as_real(anchors_in), labels = as_real(labels_in);
  const int64_t batch = labels.size(0), num_gt = labels.size(1), n = anchors.size(0);
  Tensor offsets = empty(anchors, {batch, 4 * n}, anchors.scalar_type());
  Tensor mask = empty(anchors, {batch, 4 * n}, anchors.scalar_type());
  Tensor classes = empty(anchors, {batch, n}, ScalarType::Long);
  dispatch_floating(anchors.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* anchor_data = data<T>(anchors);
    const int64_t rows = batch * num_gt;
    check_values(are_valid(anchor_data, n) && are_valid_labels(data<T>(labels), rows) &&
                 have_equal_units(anchor_data, n, data<T>(labels), rows));
    const BoxArrays<T> arrays = to_arrays(anchor_data, n);
    const Variances<T> variances{T(variance_x), T(variance_y), T(variance_w), T(variance_h)};
    const Targets<T> out{mutable_data<T>(offsets), mutable_data<T>(mask),
                         mutable_data<int64_t>(classes)};
    parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        target_images(anchor_data, arrays, data<T>(labels), num_gt, round_up<T>(iou_threshold),
                      variances, begin, end, out);
      });
    });
  });
  return {offsets, mask, classes};
}

// Decoded boxes of one image, with the best class of each and its probability.
template <class T>
struct Candidates {
  BoxArrays<T> boxes;
  std::vector<T> confidence;
  std::vector<int32_t> label;

  explicit Candidates(int64_t n) : boxes(n), confidence(n), label(n) {}
};

// probabilities: (C + 1, A) of one image, background first.
template <class T>
void find_best_classes(const T* __restrict probabilities, int64_t num_classes, int64_t n,
                       Candidates<T>& out) {
  T* __restrict confidence = out.confidence.data();
  int32_t* __restrict label = out.label.data();
  std::copy(probabilities + n, probabilities + 2 * n, confidence);
  std::fill(label, label + n, 0);
  for (int64_t c = 1; c < num_classes; ++c) {
    const T* __restrict row = probabilities + (c + 1) * n;
    for (int64_t a = 0; a < n; ++a) {
      const bool better = row[a] > confidence[a] || (is_nan(row[a]) && !is_nan(confidence[a]));
      confidence[a] = better ? row[a] : confidence[a];
      label[a] = better ? static_cast<int32_t>(c) : label[a];
    }
  }
}

template <class T>
void write_row(const Candidates<T>& candidates, int64_t a, bool kept, T threshold, T* row) {
  const Box<T> box = candidates.boxes[a];
  const T confidence = candidates.confidence[a];
  const bool low = confidence < threshold;
  row[0] = kept && !low ? T(candidates.label[a]) : T(-1);
  row[1] = low ? T(1) - confidence : confidence;
  row[2] = box.x1, row[3] = box.y1, row[4] = box.x2, row[5] = box.y2;
}

// Writes kept rows, best first, then the others in anchor order.
template <class T>
void write_detections(const Candidates<T>& candidates, const std::vector<int32_t>& kept,
                      T threshold, std::vector<uint8_t>& is_kept, T* rows) {
  const int64_t n = candidates.boxes.size;
  is_kept.assign(n, 0);
  for (const int32_t a : kept) {
    is_kept[a] = 1;
    write_row(candidates, a, true, threshold, rows);
    rows += kDetectionWidth;
  }
  for (int64_t a = 0; a < n; ++a) {
    if (is_kept[a]) continue;
    write_row(candidates, a, false, threshold, rows);
    rows += kDetectionWidth;
  }
}

// Anchors kept by suppression across classes, best first.
template <class T>
std::vector<int32_t> suppress(const Candidates<T>& candidates, double nms_threshold) {
  const int64_t n = candidates.boxes.size;
  std::vector<int32_t> order = descending_order(candidates.confidence.data(), n);
  BoxArrays<T> sorted(n);
  for (int64_t i = 0; i < n; ++i) sorted.set(i, candidates.boxes[order[i]]);
  std::vector<uint8_t> keep(n, 0);
  // NaN confidences are sorted last; they are never kept and suppress nothing.
  int64_t numbers = n;
  while (numbers > 0 && is_nan(candidates.confidence[order[numbers - 1]])) --numbers;
  sorted.size = numbers;
  nms_sorted(sorted, nms_threshold, numbers, keep.data());
  std::vector<int32_t> kept;
  for (int64_t i = 0; i < numbers; ++i) {
    if (keep[i]) kept.push_back(order[i]);
  }
  return kept;
}

template <class T>
void detect_images(const T* probabilities, const T* offsets, const T* anchors, int64_t num_classes,
                   int64_t n, double nms_threshold, T confidence_threshold, Variances<T> variances,
                   int64_t begin, int64_t end, T* out) {
  Candidates<T> candidates(n);
  std::vector<uint8_t> is_kept;
  for (int64_t b = begin; b < end; ++b) {
    find_best_classes(probabilities + b * (num_classes + 1) * n, num_classes, n, candidates);
    for (int64_t a = 0; a < n; ++a) {
      const Box<T> offset = read_box(offsets + (b * n + a) * 4);
      candidates.boxes.set(a, decode_box(offset, read_box(anchors + 4 * a), variances));
    }
    const std::vector<int32_t> kept = suppress(candidates, nms_threshold);
    write_detections(candidates, kept, confidence_threshold, is_kept,
                     out + b * n * kDetectionWidth);
  }
}

Tensor multibox_detection_cpu(const Tensor& class_probs, const Tensor& offset_preds,
                              const Tensor& anchors_in, double nms_threshold, double pos_threshold,
                              double variance_x, double variance_y, double variance_w,
                              double variance_h) {
  check_boxes(anchors_in, 2);
  const Tensor probabilities = as_real(class_probs), offsets = as_real(offset_preds);
  const Tensor anchors = as_real(anchors_in);
  STD_TORCH_CHECK(probabilities.dim() == 3 && offsets.dim() == 2, "multibox_detection: bad shapes");
  const int64_t batch = probabilities.size(0), num_classes = probabilities.size(1) - 1;
  const int64_t n = anchors.size(0);
  STD_TORCH_CHECK(num_classes >= 1 && probabilities.size(2) == n && offsets.size(0) == batch &&
                      offsets.size(1) == 4 * n,
                  "multibox_detection: bad shapes");
  check_same_dtype(probabilities, anchors);
  check_same_dtype(offsets, anchors);
  Tensor out = empty(anchors, {batch, n, kDetectionWidth}, anchors.scalar_type());
  dispatch_floating(anchors.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Variances<T> variances{T(variance_x), T(variance_y), T(variance_w), T(variance_h)};
    parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        detect_images(data<T>(probabilities), data<T>(offsets), data<T>(anchors), num_classes, n,
                      nms_threshold, round_up<T>(pos_threshold), variances, begin, end,
                      mutable_data<T>(out));
      });
    });
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("multibox_target", TORCH_BOX(&cvlib::multibox_target_cpu));
  m.impl("multibox_detection", TORCH_BOX(&cvlib::multibox_detection_cpu));
}
