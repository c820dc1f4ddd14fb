// Pairwise IoU of N and M boxes on the CPU.
//
// One row of the result at a time: the M boxes stand as arrays in cache, so a row is one vectorised
// loop of about 14 operations and one store per pair. Bytes: 4 written per float pair, nothing else
// that grows with N x M; rows are written once, in order, by the thread that owns them.
#include <tuple>

#include "../box_soa.h"
#include "../checks.h"
#include "../parallel.h"
#include "../torch_compat.h"
#include "box_iou_gradient.h"

namespace cvlib {
namespace {

constexpr int64_t kPairsPerTask = 32768;

template <class T>
void iou_row(const Box<T>& box, const BoxArrays<T>& others, T* __restrict row) {
  const T own_area = area(box);
  const T* __restrict x1 = others.x1;
  const T* __restrict y1 = others.y1;
  const T* __restrict x2 = others.x2;
  const T* __restrict y2 = others.y2;
  const T* __restrict areas = others.areas;
  const int64_t m = others.size;
  for (int64_t j = 0; j < m; ++j) {
    row[j] = iou(box, own_area, Box<T>{x1[j], y1[j], x2[j], y2[j]}, areas[j]);
  }
}

template <class T>
void iou_rows(const T* boxes, const BoxArrays<T>& others, int64_t begin, int64_t end, T* out) {
  for (int64_t i = begin; i < end; ++i) {
    const T* b = boxes + 4 * i;
    iou_row(Box<T>{b[0], b[1], b[2], b[3]}, others, out + i * others.size);
  }
}

// Gradient of every box in `boxes`: the sum over `others` of what each pair contributes.
// grad_out is read as [i * row_stride + j * column_stride], so the same loop serves both arguments.
template <class T>
void gradient_rows(const T* boxes, const BoxArrays<T>& others, const T* grad_out,
                   int64_t row_stride, int64_t column_stride, int64_t begin, int64_t end,
                   T* grad_boxes) {
  for (int64_t i = begin; i < end; ++i) {
    const T* b = boxes + 4 * i;
    const Box<T> box{b[0], b[1], b[2], b[3]};
    Box<T> sum{0, 0, 0, 0};
    for (int64_t j = 0; j < others.size; ++j) {
      add_iou_gradient(grad_out[i * row_stride + j * column_stride], box, others[j], sum);
    }
    T* g = grad_boxes + 4 * i;
    g[0] = sum.x1, g[1] = sum.y1, g[2] = sum.x2, g[3] = sum.y2;
  }
}

int64_t rows_per_task(int64_t columns) { return kPairsPerTask / (columns + 1) + 1; }

Tensor box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2) {
  check_boxes(boxes1, 2);
  check_boxes(boxes2, 2);
  check_same_dtype(boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor out = empty(first, {n, m}, first.scalar_type());
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* a = data<T>(first);
    check_values(are_valid(a, n) && are_valid(data<T>(second), m));
    const BoxArrays<T> others = to_arrays(data<T>(second), m);
    T* result = mutable_data<T>(out);
    parallel_for(n, rows_per_task(m), [&](int64_t begin, int64_t end) {
      with_best_instructions([&] { iou_rows(a, others, begin, end, result); });
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> box_iou_backward_cpu(const Tensor& grad, const Tensor& boxes1,
                                                const Tensor& boxes2) {
  check_iou_gradient(grad, boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_same_dtype(first, grad_out);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor grad1 = empty(first, {n, 4}, first.scalar_type());
  Tensor grad2 = empty(second, {m, 4}, second.scalar_type());
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const BoxArrays<T> a = to_arrays(data<T>(first), n), b = to_arrays(data<T>(second), m);
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

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&cvlib::box_iou_cpu));
  m.impl("box_iou_backward", TORCH_BOX(&cvlib::box_iou_backward_cpu));
}
