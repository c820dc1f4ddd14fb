// IoU of rotated boxes on the CPU, of all pairs of N and M boxes and of paired boxes, and
// gradients.
//
// One row at a time, in chunks that fit the cache: a first vectorised loop finds the boxes whose
// upright bounding boxes meet (8 operations per pair), a second one computes the IoU of only those
// (about 200 operations per pair, without branches). Each row is written once, by the thread that
// owns it.
#include <tuple>

#include "../parallel.h"
#include "../torch_compat.h"
#include "checks.h"
#include "rotated_gradient.h"
#include "rotated_soa.h"

namespace cvlib {
namespace {

constexpr int64_t kChunk = 1024;
constexpr int64_t kPairsPerTask = 4096;

int64_t rows_per_task(int64_t columns) { return kPairsPerTask / (columns + 1) + 1; }

int64_t end_of_chunk(int64_t begin, int64_t size) {
  return begin + kChunk < size ? begin + kChunk : size;
}

template <class T>
void iou_row(const RotatedBox& box, const RotatedArrays& others, T* __restrict row) {
  uint8_t flags[kChunk];
  int32_t found[kChunk];
  double values[kChunk];
  for (int64_t begin = 0; begin < others.size; begin += kChunk) {
    const int64_t end = end_of_chunk(begin, others.size);
    const int64_t count = find_near(box, others, begin, end, flags, found);
    iou_of_found(box, others, found, count, values);
    for (int64_t j = begin; j < end; ++j) row[j] = T(0);
    for (int64_t k = 0; k < count; ++k) row[found[k]] = static_cast<T>(values[k]);
  }
}

// Gradients of a chunk of pairs, as arrays.
struct GradientArrays {
  double x[kChunk], y[kChunk], w[kChunk], h[kChunk], angle[kChunk];

  void set(int64_t k, const RotatedGradient& g) {
    x[k] = g.x, y[k] = g.y, w[k] = g.w, h[k] = g.h, angle[k] = g.angle;
  }
};

// Adds the gradients of `box` in its pairs with the found boxes to `sum`, in order.
template <class T>
void add_gradients(const RotatedBox& box, const RotatedArrays& others, const int32_t* found,
                   int64_t count, const T* __restrict grad_out, int64_t stride,
                   RotatedGradient& sum) {
  GradientArrays each;
  for (int64_t k = 0; k < count; ++k) each.set(k, iou_gradient(box, others[found[k]]));
  for (int64_t k = 0; k < count; ++k) {
    const double grad = static_cast<double>(grad_out[found[k] * stride]);
    sum.x += grad * each.x[k], sum.y += grad * each.y[k];
    sum.w += grad * each.w[k], sum.h += grad * each.h[k];
    sum.angle += grad * each.angle[k];
  }
}

template <class T>
void write(const RotatedGradient& sum, T* out) {
  out[0] = static_cast<T>(sum.x), out[1] = static_cast<T>(sum.y);
  out[2] = static_cast<T>(sum.w), out[3] = static_cast<T>(sum.h);
  out[4] = static_cast<T>(sum.angle);
}

// Gradients of the boxes in `a`, each paired with one in `b`.
template <class T>
void paired_gradients(const RotatedArrays& a, const RotatedArrays& b, int64_t count,
                      const T* __restrict grad_out, T* __restrict out) {
  GradientArrays each;
  for (int64_t k = 0; k < count; ++k) each.set(k, iou_gradient(a[k], b[k]));
  for (int64_t k = 0; k < count; ++k) {
    const double g = static_cast<double>(grad_out[k]);
    write(RotatedGradient{g * each.x[k], g * each.y[k], g * each.w[k], g * each.h[k],
                          g * each.angle[k]},
          out + 5 * k);
  }
}

// Gradient of the boxes begin..end: the sum of each box's pairs with `others`. grad_out is indexed
// [i * row_stride + j * column_stride], so that one loop serves both arguments.
template <class T>
void gradient_rows(const T* boxes, const RotatedArrays& others, const T* grad_out,
                   int64_t row_stride, int64_t column_stride, int64_t begin, int64_t end,
                   T* grad_boxes) {
  uint8_t flags[kChunk];
  int32_t found[kChunk];
  for (int64_t i = begin; i < end; ++i) {
    const RotatedBox box = read_rotated_box(boxes + 5 * i);
    RotatedGradient sum{0, 0, 0, 0, 0};
    for (int64_t j = 0; j < others.size; j += kChunk) {
      const int64_t count = find_near(box, others, j, end_of_chunk(j, others.size), flags, found);
      add_gradients(box, others, found, count, grad_out + i * row_stride, column_stride, sum);
    }
    write(sum, grad_boxes + 5 * i);
  }
}

Tensor box_iou_rotated_cpu(const Tensor& boxes1, const Tensor& boxes2) {
  check_rotated_boxes(boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor out = empty(first, {n, m}, first.scalar_type());
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T *a = data<T>(first), *b = data<T>(second);
    check_values(are_rotated_boxes(a, n) && are_rotated_boxes(b, m));
    const RotatedArrays others = to_rotated_arrays(b, m);
    T* result = mutable_data<T>(out);
    parallel_for(n, rows_per_task(m), [&](int64_t begin, int64_t end) {
      RotatedArrays own(end - begin);
      with_best_instructions([&] {
        fill(own, a + 5 * begin, nullptr, own.size);
        for (int64_t i = 0; i < own.size; ++i) iou_row(own[i], others, result + (begin + i) * m);
      });
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> box_iou_rotated_backward_cpu(const Tensor& grad, const Tensor& boxes1,
                                                        const Tensor& boxes2) {
  check_rotated_gradient(grad, boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_same_dtype(first, grad_out);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor grad1 = empty(first, {n, 5}, first.scalar_type());
  Tensor grad2 = empty(second, {m, 5}, second.scalar_type());
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const RotatedArrays a = to_rotated_arrays(data<T>(first), n);
    const RotatedArrays b = to_rotated_arrays(data<T>(second), m);
    const T* g = data<T>(grad_out);
    parallel_for(n, rows_per_task(m), [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        gradient_rows(data<T>(first), b, g, m, int64_t{1}, begin, end, mutable_data<T>(grad1));
      });
    });
    parallel_for(m, rows_per_task(n), [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        gradient_rows(data<T>(second), a, g, int64_t{1}, m, begin, end, mutable_data<T>(grad2));
      });
    });
  });
  return {grad1, grad2};
}

// Calls kernel(a, b, begin, count) with each chunk of pairs, on torch's threads.
template <class T, class Kernel>
void for_chunks_of_pairs(const T* boxes1, const T* boxes2, int64_t n, const Kernel& kernel) {
  parallel_for(n, kPairsPerTask, [&](int64_t first, int64_t last) {
    const int64_t room = last - first < kChunk ? last - first : kChunk;
    RotatedArrays a(room), b(room);
    with_best_instructions([&] {
      for (int64_t begin = first; begin < last; begin += kChunk) {
        const int64_t count = end_of_chunk(begin, last) - begin;
        fill(a, boxes1 + 5 * begin, nullptr, count);
        fill(b, boxes2 + 5 * begin, nullptr, count);
        kernel(a, b, begin, count);
      }
    });
  });
}

template <class T>
void paired_iou(const RotatedArrays& a, const RotatedArrays& b, int64_t count, T* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(iou(a[i], b[i]));
}

Tensor paired_box_iou_rotated_cpu(const Tensor& boxes1, const Tensor& boxes2) {
  check_rotated_pairs(boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const Sizes sizes = first.sizes();
  Tensor out = empty(first, sizes.slice(0, sizes.size() - 1), first.scalar_type());
  const int64_t n = out.numel();
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T *boxes_a = data<T>(first), *boxes_b = data<T>(second);
    check_values(are_rotated_boxes(boxes_a, n) && are_rotated_boxes(boxes_b, n));
    T* result = mutable_data<T>(out);
    for_chunks_of_pairs(boxes_a, boxes_b, n,
                        [=](const auto& a, const auto& b, int64_t begin, int64_t count) {
                          paired_iou(a, b, count, result + begin);
                        });
  });
  return out;
}

std::tuple<Tensor, Tensor> paired_box_iou_rotated_backward_cpu(const Tensor& grad,
                                                               const Tensor& boxes1,
                                                               const Tensor& boxes2) {
  check_paired_rotated_gradient(grad, boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_same_dtype(first, grad_out);
  const int64_t n = grad_out.numel();
  Tensor grad1 = empty(first, first.sizes(), first.scalar_type());
  Tensor grad2 = empty(first, first.sizes(), first.scalar_type());
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* g = data<T>(grad_out);
    T *result1 = mutable_data<T>(grad1), *result2 = mutable_data<T>(grad2);
    for_chunks_of_pairs(data<T>(first), data<T>(second), n,
                        [=](const auto& a, const auto& b, int64_t begin, int64_t count) {
                          paired_gradients(a, b, count, g + begin, result1 + 5 * begin);
                          paired_gradients(b, a, count, g + begin, result2 + 5 * begin);
                        });
  });
  return {grad1, grad2};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("box_iou_rotated", TORCH_BOX(&cvlib::box_iou_rotated_cpu));
  m.impl("box_iou_rotated_backward", TORCH_BOX(&cvlib::box_iou_rotated_backward_cpu));
  m.impl("paired_box_iou_rotated", TORCH_BOX(&cvlib::paired_box_iou_rotated_cpu));
  m.impl("paired_box_iou_rotated_backward", TORCH_BOX(&cvlib::paired_box_iou_rotated_backward_cpu));
}
