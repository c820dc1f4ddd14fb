// match_anchors on the CPU (algorithm: match_cpu.h): images in parallel, one IoU matrix per thread.
#include "../checks.h"
#include "../parallel.h"
#include "../torch_compat.h"
#include "ground_truth.h"
#include "match_cpu.h"

namespace cvlib {
namespace {

// The ground truths of one image without padding, and the row of each.
template <class T>
struct GroundTruths {
  std::vector<Box<T>> boxes;
  std::vector<int32_t> rows;

  void read(const T* padded, int64_t count) {
    boxes.clear();
    rows.clear();
    for (int64_t g = 0; g < count; ++g) {
      const Box<T> box = read_box(padded + 4 * g);
      if (is_padding(box)) continue;
      boxes.push_back(box);
      rows.push_back(static_cast<int32_t>(g));
    }
  }
};

template <class T>
void match_images(const BoxArrays<T>& anchors, const T* gt_boxes, int64_t num_gt, T threshold,
                  int64_t begin, int64_t end, int64_t* matched) {
  MatchScratch<T> scratch;
  GroundTruths<T> gts;
  std::vector<int32_t> compact(anchors.size);
  for (int64_t b = begin; b < end; ++b) {
    gts.read(gt_boxes + b * num_gt * 4, num_gt);
    match_image(anchors, gts.boxes.data(), static_cast<int64_t>(gts.boxes.size()), threshold,
                scratch, compact.data());
    int64_t* row = matched + b * anchors.size;
    for (int64_t a = 0; a < anchors.size; ++a) {
      row[a] = compact[a] < 0 ? -1 : gts.rows[compact[a]];
    }
  }
}

Tensor match_anchors_cpu(const Tensor& anchors_in, const Tensor& gt_boxes_in,
                         double iou_threshold) {
  check_boxes(anchors_in, 2);
  check_boxes(gt_boxes_in, 3);
  check_same_dtype(anchors_in, gt_boxes_in);
  const Tensor anchors = as_real(anchors_in), gt_boxes = as_real(gt_boxes_in);
  const int64_t batch = gt_boxes.size(0), num_gt = gt_boxes.size(1), n = anchors.size(0);
  Tensor out = empty(anchors, {batch, n}, ScalarType::Long);
  dispatch_floating(anchors.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    // Padding rows pass, because their corners are in order.
    check_values(are_valid(data<T>(anchors), n) && are_valid(data<T>(gt_boxes), batch * num_gt));
    const BoxArrays<T> arrays = to_arrays(data<T>(anchors), n);
    parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        match_images(arrays, data<T>(gt_boxes), num_gt, round_up<T>(iou_threshold), begin, end,
                     mutable_data<int64_t>(out));
      });
    });
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("match_anchors", TORCH_BOX(&cvlib::match_anchors_cpu));
}
