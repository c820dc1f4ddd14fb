// Threshold, selection and suppression per class for a batch of images, on the CPU.
//
// Scores are read once; those from the threshold on become candidates (parallel over images and
// rows). Then each image visits its candidates best first, whatever their class: a candidate is
// kept unless it overlaps a kept one of its class, until the image has max_output boxes. The best
// of each class need not be selected first: a counter per class enforces max_candidates. Work:
// one pass over the scores, then visited candidates x kept boxes of their class. Memory: the
// candidates; no IoU matrix and no copies of boxes.
#include <algorithm>
#include <tuple>

#include "../box_soa.h"
#include "../checks.h"
#include "../parallel.h"
#include "arguments.h"
#include "best_first.h"
#include "kept_boxes.h"

namespace cvlib {
namespace {

constexpr int64_t kScoresPerTask = 1 << 16;
constexpr int kScoresPerBlock = 32;

template <class T>
using Key = decltype(descending_key(T{}));
template <class T>
using Scored = std::vector<Ranked<Key<T>>>;

// Strided, so that scores sliced to drop the background need no copy. The last dimension of the
// scores and the four coordinates of a box are contiguous.
template <class T>
struct Problem {
  const T* boxes;
  int64_t box_image, box_row, box_class;  // strides; 0 between classes that share their boxes
  const T* scores;
  int64_t score_image, score_row;
  int64_t batch, rows, classes;
  T score_threshold, iou_threshold;
  int64_t max_candidates, max_output;

  Box<T> box(int64_t image, int64_t row, int64_t label) const {
    return read_box(boxes + image * box_image + row * box_row + label * box_class);
  }
};

// Appends the scores from the threshold on to `candidates`; false when there is a NaN.
template <class T>
bool collect_run(const T* scores, int64_t size, int64_t first_index, T threshold,
                 Scored<T>& candidates) {
  bool valid = true;
  for (int64_t begin = 0; begin < size; begin += kScoresPerBlock) {
    const int64_t count = size - begin < kScoresPerBlock ? size - begin : kScoresPerBlock;
    const T* __restrict block = scores + begin;
    int32_t reached = 0, nans = 0;
    for (int64_t i = 0; i < count; ++i) {
      reached += block[i] >= threshold;
      nans += block[i] != block[i];
    }
    valid &= nans == 0;
    if (reached == 0) continue;
    size_t next = candidates.size();
    candidates.resize(next + reached + 1);  // one more, so that the loop needs no branch
    for (int64_t i = 0; i < count; ++i) {
      candidates[next] = {descending_key(block[i]), static_cast<int32_t>(first_index + begin + i)};
      next += block[i] >= threshold;
    }
    candidates.pop_back();
  }
  return valid;
}

template <class T>
bool collect_rows(const Problem<T>& p, int64_t image, int64_t begin, int64_t end,
                  Scored<T>& candidates) {
  const T* scores = p.scores + image * p.score_image;
  if (p.score_row == p.classes) {
    return collect_run(scores + begin * p.classes, (end - begin) * p.classes, begin * p.classes,
                       p.score_threshold, candidates);
  }
  bool valid = true;
  for (int64_t row = begin; row < end; ++row) {
    valid &= collect_run(scores + row * p.score_row, p.classes, row * p.classes, p.score_threshold,
                         candidates);
  }
  return valid;
}

template <class T>
bool are_valid_rows(const Problem<T>& p, int64_t image, int64_t begin, int64_t end) {
  const T* boxes = p.boxes + image * p.box_image;
  const int64_t per_row = p.box_class == 0 ? 1 : p.classes;
  if (p.box_row == 4 * per_row && (per_row == 1 || p.box_class == 4)) {
    return are_valid(boxes + begin * p.box_row, (end - begin) * per_row);
  }
  bool valid = true;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t k = 0; k < per_row; ++k) {
      valid &= are_valid(boxes + row * p.box_row + k * p.box_class, 1);
    }
  }
  return valid;
}

// Writes row and label of each kept box of one image; returns the number of kept boxes.
template <class T>
int64_t suppress_image(const Problem<T>& p, int64_t image, Scored<T> candidates, int64_t* rows,
                       int64_t* labels) {
  KeptBoxes<T> kept_boxes(p.classes);
  std::vector<int64_t> visited(p.classes, 0);
  BestFirst<Key<T>> best_first(std::move(candidates));
  int64_t kept = 0;
  for (int64_t portion = 4 * p.max_output + 256; kept < p.max_output; portion *= 4) {
    const auto& best = best_first.next(portion);
    if (best.empty()) break;
    for (const auto& candidate : best) {
      const int64_t row = candidate.index / p.classes, label = candidate.index % p.classes;
      if (++visited[label] > p.max_candidates) continue;
      const Box<T> box = p.box(image, row, label);
      if (kept_boxes.suppresses(label, box, p.iou_threshold)) continue;
      kept_boxes.add(label, box);
      rows[kept] = row;
      labels[kept] = label;
      if (++kept == p.max_output) break;
    }
  }
  return kept;
}

template <class T>
void suppress_batch(const Problem<T>& p, int64_t* rows, int64_t* labels, int64_t* counts) {
  const int64_t rows_per_task = kScoresPerTask / (p.classes + 1) + 1;
  const int64_t tasks = (p.rows + rows_per_task - 1) / rows_per_task;  // per image
  std::vector<Scored<T>> candidates(p.batch * tasks);
  std::vector<uint8_t> valid(p.batch * tasks, 1);
  parallel_for(p.batch * tasks, 1, [&](int64_t first, int64_t last) {
    with_best_instructions([&] {
      for (int64_t task = first; task < last; ++task) {
        const int64_t image = task / tasks, begin = task % tasks * rows_per_task;
        const int64_t end = begin + rows_per_task < p.rows ? begin + rows_per_task : p.rows;
        valid[task] = collect_rows(p, image, begin, end, candidates[task]) &
                      are_valid_rows(p, image, begin, end);
      }
    });
  });
  for (const uint8_t is_valid : valid) check_values(is_valid);
  parallel_for(p.batch, 1, [&](int64_t first, int64_t last) {
    with_best_instructions([&] {
      for (int64_t image = first; image < last; ++image) {
        Scored<T> all;
        for (int64_t task = image * tasks; task < (image + 1) * tasks; ++task) {
          if (all.empty()) {
            all.swap(candidates[task]);
          } else {
            all.insert(all.end(), candidates[task].begin(), candidates[task].end());
          }
        }
        int64_t* image_rows = rows + image * p.max_output;
        int64_t* image_labels = labels + image * p.max_output;
        const int64_t kept = suppress_image(p, image, std::move(all), image_rows, image_labels);
        std::fill(image_rows + kept, image_rows + p.max_output, -1);
        std::fill(image_labels + kept, image_labels + p.max_output, -1);
        counts[image] = kept;
      }
    });
  });
}

Tensor with_contiguous_last_dim(const Tensor& tensor) {
  const Tensor real = is_half(tensor) ? as_real(tensor) : tensor;
  return real.stride(real.dim() - 1) == 1 ? real : as_contiguous(real);
}

std::tuple<Tensor, Tensor, Tensor> multiclass_nms_cpu(const Tensor& boxes_in,
                                                      const Tensor& scores_in,
                                                      double score_threshold, double iou_threshold,
                                                      int64_t max_candidates, int64_t max_output) {
  check_multiclass(boxes_in, scores_in, max_output);
  const int64_t batch = scores_in.size(0), n = scores_in.size(1), classes = scores_in.size(2);
  const Tensor boxes = with_contiguous_last_dim(boxes_in);
  const Tensor scores = with_contiguous_last_dim(scores_in);
  Tensor rows = empty(boxes, {batch, max_output}, ScalarType::Long);
  Tensor labels = empty(boxes, {batch, max_output}, ScalarType::Long);
  Tensor counts = empty(boxes, {batch}, ScalarType::Long);
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Problem<T> problem{data<T>(boxes),
                             boxes.stride(0),
                             boxes.stride(1),
                             boxes.dim() == 3 ? 0 : boxes.stride(2),
                             data<T>(scores),
                             scores.stride(0),
                             scores.stride(1),
                             batch,
                             classes == 0 ? 0 : n,  // an empty tensor has arbitrary strides
                             classes,
                             round_up<T>(score_threshold),
                             round_down<T>(iou_threshold),
                             max_candidates < 0 ? n : max_candidates,
                             max_output};
    suppress_batch(problem, mutable_data<int64_t>(rows), mutable_data<int64_t>(labels),
                   mutable_data<int64_t>(counts));
  });
  return {rows, labels, counts};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("multiclass_nms", TORCH_BOX(&cvlib::multiclass_nms_cpu));
}
