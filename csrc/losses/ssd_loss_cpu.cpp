// SSD's loss with hard negative mining, and its gradient, on the CPU.
//
// Forward: (1) log-sum-exp and loss of every anchor, one pass over the logits, about 20 vectorised
// operations per logit; (2) for each image the hardness of its k-th hardest negative, found bit by
// bit by counting the anchors that are at least as hard: A x 31 integer comparisons in cache and no
// sort; (3) sums in double, image by image, anchor by anchor. Memory besides the results: one
// number per anchor. Backward: zeros, and the softmax of the few anchors that were kept.
#include <algorithm>
#include <tuple>
#include <vector>

#include "../parallel.h"
#include "log_sum_exp.h"
#include "ssd_loss.h"
#include "ssd_loss_arguments.h"

namespace cvlib {
namespace {

constexpr int64_t kBlock = 64;  // anchors whose gradients stay in the L1 cache
constexpr int64_t kNumbersPerTask = 32768;

// Log-sum-exp and loss of the anchors begin..end; ignored anchors have loss 0.
template <class T>
void losses_of_anchors(const T* logits, const int64_t* classes, int64_t rows, int64_t columns,
                       int64_t begin, int64_t end, T* log_sum_exp, T* losses) {
  log_sum_exp_of_rows(logits, rows, columns, begin, end, log_sum_exp);
  for (int64_t i = begin; i < end; ++i) {
    losses[i] = classes[i] < 0 ? T(0) : log_sum_exp[i] - logits[i * columns + classes[i]];
  }
}

template <class Key>
int64_t count_at_least(const std::vector<Key>& keys, Key bound) {
  const Key* __restrict values = keys.data();
  Key count = 0;  // of the keys' width, so that the loop vectorises
  const int64_t n = static_cast<int64_t>(keys.size());
  for (int64_t i = 0; i < n; ++i) count += values[i] >= bound ? Key(1) : Key(0);
  return static_cast<int64_t>(count);
}

// The wanted-th largest key: the largest bound that at least `wanted` keys reach.
template <class Key>
Key find_bound(const std::vector<Key>& keys, int64_t wanted) {
  Key bound = 0;
  for (int bit = 8 * static_cast<int>(sizeof(Key)) - 2; bit >= 0; --bit) {
    const Key trial = bound | (Key(1) << bit);
    if (count_at_least(keys, trial) >= wanted) bound = trial;
  }
  return bound;
}

// Marks the `wanted` hardest candidates, the first ones among equals.
template <class Key>
void keep_hardest(const std::vector<Key>& keys, int64_t wanted, bool* kept) {
  if (wanted == 0) return;
  const Key bound = find_bound(keys, wanted);
  const bool is_last = bound == std::numeric_limits<Key>::max();
  int64_t ties = wanted - (is_last ? 0 : count_at_least(keys, static_cast<Key>(bound + 1)));
  const int64_t n = static_cast<int64_t>(keys.size());
  for (int64_t i = 0; i < n; ++i) {
    if (keys[i] > bound || (keys[i] == bound && ties-- > 0)) kept[i] = true;
  }
}

struct ImageSums {
  int64_t positives = 0;
  double classes = 0, boxes = 0;
};

template <class T>
ImageSums mine_image(const T* losses, const int64_t* classes, const T* offsets,
                     const T* target_offsets, int64_t anchors, double ratio,
                     std::vector<Hardness<T>>& keys, bool* kept) {
  ImageSums sums;
  int64_t negatives = 0;
  for (int64_t i = 0; i < anchors; ++i) {
    kept[i] = classes[i] > 0;
    sums.positives += classes[i] > 0;
    negatives += classes[i] == 0;
    keys[i] = hardness(losses[i], classes[i] == 0);
  }
  keep_hardest(keys, count_hard(ratio, sums.positives, negatives), kept);
  for (int64_t i = 0; i < anchors; ++i) {
    if (!kept[i]) continue;
    sums.classes += losses[i];
    if (classes[i] <= 0) continue;
    for (int64_t k = 4 * i; k < 4 * i + 4; ++k) {
      sums.boxes += smooth_l1(offsets[k] - target_offsets[k]);
    }
  }
  return sums;
}

bool are_classes_valid(const int64_t* classes, int64_t count, int64_t columns) {
  bool valid = true;
  for (int64_t i = 0; i < count; ++i) valid &= (classes[i] >= -1) & (classes[i] < columns);
  return valid;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> ssd_loss_cpu(const Tensor& class_logits,
                                                                const Tensor& offsets,
                                                                const Tensor& classes,
                                                                const Tensor& target_offsets,
                                                                double negative_ratio) {
  const SsdArguments arguments(class_logits, offsets, classes, target_offsets);
  const int64_t rows = arguments.rows(), anchors = arguments.anchors, columns = arguments.columns;
  const int64_t* labels = data<int64_t>(arguments.classes);
  check_values(are_classes_valid(labels, rows, columns));
  const ScalarType type = arguments.logits.scalar_type();
  Tensor class_loss = empty(arguments.logits, {}, type),
         box_loss = empty(arguments.logits, {}, type);
  Tensor divisor = empty(arguments.logits, {}, type);
  Tensor log_sum_exp = empty(arguments.logits, {arguments.images, anchors}, type);
  Tensor losses = empty(arguments.logits, {arguments.images, anchors}, type);
  Tensor kept = empty(arguments.logits, {arguments.images, anchors}, ScalarType::Bool);
  std::vector<ImageSums> sums(arguments.images);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    const T* logits = data<T>(arguments.logits);
    T* loss = mutable_data<T>(losses);
    T* logarithms = mutable_data<T>(log_sum_exp);
    bool* selected = mutable_data<bool>(kept);
    parallel_for(rows, kNumbersPerTask / (columns + kLanes) + 1, [&](int64_t begin, int64_t end) {
      with_best_instructions(
          [&] { losses_of_anchors(logits, labels, rows, columns, begin, end, logarithms, loss); });
    });
    const T* box_offsets = data<T>(arguments.offsets);
    const T* targets = data<T>(arguments.target_offsets);
    parallel_for(
        arguments.images, kNumbersPerTask / (anchors + 1) + 1, [&](int64_t begin, int64_t end) {
          std::vector<Hardness<T>> keys(anchors);
          with_best_instructions([&] {
            for (int64_t i = begin; i < end; ++i) {
              const int64_t first = i * anchors;
              sums[i] =
                  mine_image(loss + first, labels + first, box_offsets + 4 * first,
                             targets + 4 * first, anchors, negative_ratio, keys, selected + first);
            }
          });
        });
    ImageSums total;
    for (const ImageSums& image : sums) {
      total.positives += image.positives;
      total.classes += image.classes;
      total.boxes += image.boxes;
    }
    const double share = static_cast<double>(std::max<int64_t>(total.positives, 1));
    mutable_data<T>(class_loss)[0] = static_cast<T>(total.classes / share);
    mutable_data<T>(box_loss)[0] = static_cast<T>(total.boxes / share);
    mutable_data<T>(divisor)[0] = static_cast<T>(share);
  });
  return {class_loss, box_loss, divisor, log_sum_exp, kept};
}

template <class T>
void class_gradients(const T* logits, const int64_t* classes, const T* log_sum_exp,
                     const bool* kept, T factor, int64_t columns, int64_t begin, int64_t end,
                     T* grad) {
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t last = std::min(first + kBlock, end);
    std::fill(grad + first * columns, grad + last * columns, T(0));
    for (int64_t i = first; i < last; ++i) {
      if (!kept[i] || classes[i] < 0) continue;
      const T* __restrict row = logits + i * columns;
      T* __restrict result = grad + i * columns;
      const T shift = log_sum_exp[i];
      for (int64_t k = 0; k < columns; ++k) result[k] = factor * vector_exp(row[k] - shift);
      result[classes[i]] -= factor;
    }
  }
}

template <class T>
void box_gradients(const T* offsets, const T* target_offsets, const int64_t* classes, T factor,
                   int64_t begin, int64_t end, T* grad) {
  for (int64_t k = 4 * begin; k < 4 * end; ++k) {
    const T slope = smooth_l1_gradient(offsets[k] - target_offsets[k]);
    grad[k] = classes[k / 4] > 0 ? factor * slope : T(0);
  }
}

std::tuple<Tensor, Tensor> ssd_loss_backward_cpu(const Tensor& grad_class, const Tensor& grad_box,
                                                 const Tensor& class_logits, const Tensor& offsets,
                                                 const Tensor& classes,
                                                 const Tensor& target_offsets,
                                                 const Tensor& divisor, const Tensor& log_sum_exp,
                                                 const Tensor& kept) {
  const SsdArguments arguments(class_logits, offsets, classes, target_offsets);
  const SsdSaved saved(arguments, divisor, log_sum_exp, kept);
  check_same_dtype(grad_class, arguments.logits);
  check_same_dtype(grad_box, arguments.logits);
  const int64_t rows = arguments.rows(), columns = arguments.columns;
  const int64_t* labels = data<int64_t>(arguments.classes);
  check_values(are_classes_valid(labels, rows, columns));
  const ScalarType type = arguments.logits.scalar_type();
  Tensor to_logits = empty(arguments.logits, {arguments.images, arguments.anchors, columns}, type);
  Tensor to_offsets = empty(arguments.logits, {arguments.images, arguments.anchors, 4}, type);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    const T share = T(1) / data<T>(saved.divisor)[0];
    const T class_factor = data<T>(grad_class)[0] * share;
    const T box_factor = data<T>(grad_box)[0] * share;
    parallel_for(rows, kNumbersPerTask / (columns + 4) + 1, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        class_gradients(data<T>(arguments.logits), labels, data<T>(saved.log_sum_exp),
                        data<bool>(saved.kept), class_factor, columns, begin, end,
                        mutable_data<T>(to_logits));
        box_gradients(data<T>(arguments.offsets), data<T>(arguments.target_offsets), labels,
                      box_factor, begin, end, mutable_data<T>(to_offsets));
      });
    });
  });
  return {to_logits, to_offsets};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("ssd_loss", TORCH_BOX(&cvlib::ssd_loss_cpu));
  m.impl("ssd_loss_backward", TORCH_BOX(&cvlib::ssd_loss_backward_cpu));
}
