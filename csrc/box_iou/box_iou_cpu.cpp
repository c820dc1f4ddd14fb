// Pairwise similarities of N and M boxes on the CPU, and their gradients.
//
// One row of the result at a time: the M boxes are arrays in cache, so a row is one vectorised loop
// of about 14 operations (IoU) and one store per pair. Memory traffic: 4 bytes written per pair of
// float boxes; nothing else grows with N x M. Each row is written once, by the thread that owns it.
#include <algorithm>
#include <tuple>
#include <vector>

#include "../box_soa.h"
#include "../checks.h"
#include "../parallel.h"
#include "../torch_compat.h"
#include "iou_math.h"

namespace cvlib {
namespace {

constexpr int64_t kPairsPerTask = 32768;

// The boxes of one argument as arrays, with angles only for the kind that reads them.
template <IouKind kKind, class T>
struct MeasuredArrays {
  BoxArrays<T> boxes;
  std::vector<T> angles;

  explicit MeasuredArrays(const T* values, int64_t n) : boxes(to_arrays(values, n)) {
    if constexpr (kKind == IouKind::kComplete) {
      angles.resize(n);
      for (int64_t i = 0; i < n; ++i) angles[i] = aspect_angle(boxes[i]);
    }
  }

  Measured<T> operator[](int64_t i) const {
    return {boxes[i], boxes.areas[i], kKind == IouKind::kComplete ? angles[i] : T(0)};
  }
};

template <IouKind kKind, class T>
void similarity_row(const Measured<T>& own, const BoxArrays<T>& others, const T* __restrict angles,
                    T* __restrict row) {
  const T* __restrict x1 = others.x1;
  const T* __restrict y1 = others.y1;
  const T* __restrict x2 = others.x2;
  const T* __restrict y2 = others.y2;
  const T* __restrict areas = others.areas;
  const int64_t m = others.size;
  for (int64_t j = 0; j < m; ++j) {
    const Box<T> box{x1[j], y1[j], x2[j], y2[j]};
    const T angle = kKind == IouKind::kComplete ? angles[j] : T(0);
    row[j] = similarity<kKind>(own, Measured<T>{box, areas[j], angle});
  }
}

template <IouKind kKind, class T>
void similarity_rows(const T* boxes, const MeasuredArrays<kKind, T>& others, int64_t begin,
                     int64_t end, T* out) {
  for (int64_t i = begin; i < end; ++i) {
    similarity_row<kKind>(measure_box<kKind>(read_box(boxes + 4 * i)), others.boxes,
                          others.angles.data(), out + i * others.boxes.size);
  }
}

// Sums run in this many lanes and are added at the end, in one order on every instruction set.
constexpr int kLanes = 16;

template <class T>
struct LaneSums {
  T x1[kLanes] = {}, y1[kLanes] = {}, x2[kLanes] = {}, y2[kLanes] = {};

  void write(T* values) const {
    const T* lanes[4] = {x1, y1, x2, y2};
    for (int c = 0; c < 4; ++c) {
      values[c] = 0;
      for (int k = 0; k < kLanes; ++k) values[c] += lanes[c][k];
    }
  }
};

template <IouKind kKind, class T>
void add_chunk(const Measured<T>& own, const MeasuredArrays<kKind, T>& others, int64_t begin,
               int64_t count, const T* __restrict grads, LaneSums<T>& sums) {
  const T* __restrict x1 = others.boxes.x1 + begin;
  const T* __restrict y1 = others.boxes.y1 + begin;
  const T* __restrict x2 = others.boxes.x2 + begin;
  const T* __restrict y2 = others.boxes.y2 + begin;
  const T* __restrict areas = others.boxes.areas + begin;
  const T* __restrict angles = others.angles.data() + begin;
  for (int64_t k = 0; k < count; ++k) {
    const Box<T> box{x1[k], y1[k], x2[k], y2[k]};
    const T angle = kKind == IouKind::kComplete ? angles[k] : T(0);
    Box<T> sum{sums.x1[k], sums.y1[k], sums.x2[k], sums.y2[k]};
    add_gradient<kKind>(grads[k], own, Measured<T>{box, areas[k], angle}, sum);
    sums.x1[k] = sum.x1;
    sums.y1[k] = sum.y1;
    sums.x2[k] = sum.x2;
    sums.y2[k] = sum.y2;
  }
}

// Gradient of the boxes begin..end: the sum of each box's pairs with `others`. grad_out is indexed
// [i * row_stride + j * column_stride], so that one loop serves both arguments.
template <IouKind kKind, class T>
void gradient_rows(const T* boxes, const MeasuredArrays<kKind, T>& others, const T* grad_out,
                   int64_t row_stride, int64_t column_stride, int64_t begin, int64_t end,
                   T* grad_boxes) {
  for (int64_t i = begin; i < end; ++i) {
    const Measured<T> own = measure_box<kKind>(read_box(boxes + 4 * i));
    LaneSums<T> sums;
    for (int64_t j = 0; j < others.boxes.size; j += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, others.boxes.size - j);
      T grads[kLanes];
      for (int64_t k = 0; k < count; ++k) {
        grads[k] = grad_out[i * row_stride + (j + k) * column_stride];
      }
      if (count == kLanes) {
        add_chunk(own, others, j, int64_t{kLanes}, grads, sums);
      } else {
        add_chunk(own, others, j, count, grads, sums);
      }
    }
    sums.write(grad_boxes + 4 * i);
  }
}

int64_t rows_per_task(int64_t columns) { return kPairsPerTask / (columns + 1) + 1; }

Tensor box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2, int64_t kind) {
  check_kind(kind);
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
    T* result = mutable_data<T>(out);
    dispatch_kind(kind, [&](auto chosen) {
      constexpr IouKind kKind = decltype(chosen)::value;
      const MeasuredArrays<kKind, T> others(data<T>(second), m);
      parallel_for(n, rows_per_task(m), [&](int64_t begin, int64_t end) {
        with_best_instructions([&] { similarity_rows(a, others, begin, end, result); });
      });
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> box_iou_backward_cpu(const Tensor& grad, const Tensor& boxes1,
                                                const Tensor& boxes2, int64_t kind) {
  check_kind(kind);
  check_iou_gradient(grad, boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_same_dtype(first, grad_out);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor grad1 = empty(first, {n, 4}, first.scalar_type());
  Tensor grad2 = empty(second, {m, 4}, second.scalar_type());
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T *a = data<T>(first), *b = data<T>(second), *g = data<T>(grad_out);
    T *to1 = mutable_data<T>(grad1), *to2 = mutable_data<T>(grad2);
    dispatch_kind(kind, [&](auto chosen) {
      constexpr IouKind kKind = decltype(chosen)::value;
      const MeasuredArrays<kKind, T> rows(a, n), columns(b, m);
      parallel_for(n, rows_per_task(m), [&](int64_t begin, int64_t end) {
        with_best_instructions(
            [&] { gradient_rows(a, columns, g, m, int64_t{1}, begin, end, to1); });
      });
      parallel_for(m, rows_per_task(n), [&](int64_t begin, int64_t end) {
        with_best_instructions([&] { gradient_rows(b, rows, g, int64_t{1}, m, begin, end, to2); });
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
