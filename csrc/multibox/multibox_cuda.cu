// The book's multibox_target and multibox_detection on CUDA.
//
// Target: matching (match_cuda.cuh), then one thread per anchor writes class, offset and mask.
// Detection: one thread per anchor finds the best class and decodes; one stable sort of all images;
// suppression of all images side by side (nms_core.cuh); one block per image finds the position of
// each row. Work: one pass over the probabilities, then kept x anchors pairs. No host
// synchronisation.
#include <tuple>

#include "../checks.h"
#include "../cuda_aten.cuh"
#include "../cuda_block.cuh"
#include "../matching/match_cuda.cuh"
#include "../nms/nms_core.cuh"

namespace cvlib {
namespace {

constexpr int kLabelWidth = 5;      // class, x1, y1, x2, y2
constexpr int kDetectionWidth = 6;  // class, confidence, x1, y1, x2, y2

template <class T>
__global__ void target_kernel(const T* __restrict__ anchors, int64_t num_anchors,
                              PaddedBoxes<T> gts, Variances<T> variances,
                              const int64_t* __restrict__ matched, T* __restrict__ offsets,
                              T* __restrict__ mask, int64_t* __restrict__ classes) {
  const int64_t a = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t image = blockIdx.y;
  if (a >= num_anchors) return;
  const int64_t i = image * num_anchors + a, gt = matched[i];
  Box<T> offset{0, 0, 0, 0};
  if (gt >= 0) offset = encode_box(gts.box(image, gt), read_box(anchors + 4 * a), variances);
  classes[i] = gt >= 0 ? static_cast<int64_t>(gts.row(image, gt)[0]) + 1 : 0;
  const T positive = gt >= 0 ? T(1) : T(0);
  write_box(offset, offsets + 4 * i);
  for (int c = 0; c < 4; ++c) mask[4 * i + c] = positive;
}

std::tuple<Tensor, Tensor, Tensor> multibox_target_cuda(const Tensor& anchors_in,
                                                        const Tensor& labels_in,
                                                        double iou_threshold, double variance_x,
                                                        double variance_y, double variance_w,
                                                        double variance_h) {
  check_boxes(anchors_in, 2);
  check_same_dtype(anchors_in, labels_in);
  STD_TORCH_CHECK(labels_in.dim() == 3 && labels_in.size(2) == kLabelWidth,
                  "multibox_target: expected labels of shape (B, M, 5)");
  const DeviceGuard guard(anchors_in.get_device_index());
  const Tensor anchors = as_real(anchors_in), labels = as_real(labels_in);
  const int64_t batch = labels.size(0), n = anchors.size(0);
  const Tensor matched = unmatched(anchors, batch, n);
  Tensor offsets = empty(anchors, {batch, 4 * n}, anchors.scalar_type());
  Tensor mask = empty(anchors, {batch, 4 * n}, anchors.scalar_type());
  Tensor classes = empty(anchors, {batch, n}, ScalarType::Long);
  if (batch == 0 || n == 0) return {offsets, mask, classes};
  const cudaStream_t stream = current_stream(anchors);
  dispatch_floating(anchors.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const PaddedBoxes<T> gts{data<T>(labels), labels.size(1), kLabelWidth};
    const Variances<T> variances{T(variance_x), T(variance_y), T(variance_w), T(variance_h)};
    launch_match(anchors, gts, batch, iou_threshold, matched, stream);
    target_kernel<T><<<dim3(blocks_for(n), static_cast<unsigned>(batch)), kThreads, 0, stream>>>(
        data<T>(anchors), n, gts, variances, data<int64_t>(matched), mutable_data<T>(offsets),
        mutable_data<T>(mask), mutable_data<int64_t>(classes));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {offsets, mask, classes};
}

// Arrays of shape (batch, n), by anchor unless stated otherwise.
template <class T>
struct Detections {
  Box<T>* boxes;
  T* confidence;
  int64_t* label;
  Box<T>* ranked_boxes;     // by rank of confidence
  uint8_t* ranked_removed;  // by rank
  uint8_t* ranked_keep;     // by rank
  uint8_t* keep;
};

template <class T>
__global__ void decode_kernel(const T* __restrict__ probabilities, const T* __restrict__ offsets,
                              const T* __restrict__ anchors, int64_t num_classes, int64_t n,
                              Variances<T> variances, Detections<T> out) {
  const int64_t a = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t image = blockIdx.y, i = image * n + a;
  if (a >= n) return;
  const T* column = probabilities + image * (num_classes + 1) * n + a;
  T best = column[n];
  int64_t label = 0;
  for (int64_t c = 1; c < num_classes; ++c) {
    const T value = column[(c + 1) * n];
    if (value > best || (is_nan(value) && !is_nan(best))) {
      best = value;
      label = c;
    }
  }
  out.boxes[i] = decode_box(read_box(offsets + 4 * i), read_box(anchors + 4 * a), variances);
  out.confidence[i] = best;
  out.label[i] = label;
}

template <class T>
__global__ void rank_kernel(const int64_t* __restrict__ order, int64_t n, Detections<T> d) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t base = blockIdx.y * n;
  if (rank >= n) return;
  const int64_t i = base + order[base + rank];
  d.ranked_boxes[base + rank] = d.boxes[i];
  d.ranked_removed[base + rank] = has_nan(d.boxes[i]) || is_nan(d.confidence[i]);
}

template <class T>
__global__ void unrank_kernel(const int64_t* __restrict__ order, int64_t n, Detections<T> d) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t base = blockIdx.y * n;
  if (rank < n) d.keep[base + order[base + rank]] = d.ranked_keep[base + rank];
}

template <class T>
__device__ void write_row(const Detections<T>& d, int64_t i, bool kept, T threshold, T* row) {
  const T confidence = d.confidence[i];
  const bool low = confidence < threshold;
  const Box<T> box = d.boxes[i];
  row[0] = kept && !low ? static_cast<T>(d.label[i]) : T(-1);
  row[1] = low ? T(1) - confidence : confidence;
  row[2] = box.x1, row[3] = box.y1, row[4] = box.x2, row[5] = box.y2;
}

// Writes kept rows, best first, then the others in anchor order.
template <class T>
__global__ void write_kernel(const int64_t* __restrict__ order, int64_t n, T threshold,
                             Detections<T> d, T* __restrict__ out) {
  const int64_t base = blockIdx.x * n;
  int64_t next = 0;
  int total = 0;
  for (int64_t start = 0; start < n; start += kThreads) {
    const int64_t rank = start + threadIdx.x;
    const bool kept = rank < n && d.ranked_keep[base + rank];
    const int64_t place = next + count_before(kept, total);
    if (kept) {
      write_row(d, base + order[base + rank], true, threshold,
                out + (base + place) * kDetectionWidth);
    }
    next += total;
  }
  for (int64_t start = 0; start < n; start += kThreads) {
    const int64_t a = start + threadIdx.x;
    const bool other = a < n && !d.keep[base + a];
    const int64_t place = next + count_before(other, total);
    if (other) write_row(d, base + a, false, threshold, out + (base + place) * kDetectionWidth);
    next += total;
  }
}

template <class T>
void detect(const Tensor& probabilities, const Tensor& offsets, const Tensor& anchors,
            double nms_threshold, double pos_threshold, Variances<T> variances, const Tensor& out) {
  const int64_t batch = probabilities.size(0), n = anchors.size(0);
  const ScalarType type = anchors.scalar_type();
  const cudaStream_t stream = current_stream(anchors);
  const Tensor boxes = empty(anchors, {batch, n, 4}, type);
  const Tensor ranked_boxes = empty(anchors, {batch, n, 4}, type);
  const Tensor confidence = empty(anchors, {batch, n}, type);
  const Tensor label = empty(anchors, {batch, n}, ScalarType::Long);
  const Tensor flags = zeros(anchors, {3, batch, n}, ScalarType::Byte);
  uint8_t* flag_data = mutable_data<uint8_t>(flags);
  const Detections<T> d{static_cast<Box<T>*>(boxes.mutable_data_ptr()),
                        mutable_data<T>(confidence),
                        mutable_data<int64_t>(label),
                        static_cast<Box<T>*>(ranked_boxes.mutable_data_ptr()),
                        flag_data,
                        flag_data + batch * n,
                        flag_data + 2 * batch * n};
  const dim3 grid(blocks_for(n), static_cast<unsigned>(batch));
  decode_kernel<T><<<grid, kThreads, 0, stream>>>(data<T>(probabilities), data<T>(offsets),
                                                  data<T>(anchors), probabilities.size(1) - 1, n,
                                                  variances, d);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const Tensor order = sort_descending(confidence).second;
  rank_kernel<T><<<grid, kThreads, 0, stream>>>(data<int64_t>(order), n, d);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  NmsProblem<UprightRule<T>> problem{};
  problem.boxes = d.ranked_boxes;
  problem.removed = d.ranked_removed;
  problem.keep = d.ranked_keep;
  problem.n = n;
  problem.max_total = n;
  problem.rule = {round_down<T>(nms_threshold)};
  launch_nms(problem, batch, anchors, stream);
  unrank_kernel<T><<<grid, kThreads, 0, stream>>>(data<int64_t>(order), n, d);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  write_kernel<T><<<static_cast<unsigned>(batch), kThreads, 0, stream>>>(
      data<int64_t>(order), n, round_up<T>(pos_threshold), d, mutable_data<T>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor multibox_detection_cuda(const Tensor& class_probs, const Tensor& offset_preds,
                               const Tensor& anchors_in, double nms_threshold, double pos_threshold,
                               double variance_x, double variance_y, double variance_w,
                               double variance_h) {
  check_boxes(anchors_in, 2);
  const DeviceGuard guard(anchors_in.get_device_index());
  const Tensor probabilities = as_real(class_probs), offsets = as_real(offset_preds);
  const Tensor anchors = as_real(anchors_in);
  check_same_dtype(probabilities, anchors);
  check_same_dtype(offsets, anchors);
  const int64_t batch = probabilities.size(0), n = anchors.size(0);
  STD_TORCH_CHECK(probabilities.size(1) >= 2 && probabilities.size(2) == n &&
                      offsets.size(0) == batch && offsets.size(1) == 4 * n && batch <= kMaxGrid,
                  "multibox_detection: bad shapes");
  Tensor out = empty(anchors, {batch, n, kDetectionWidth}, anchors.scalar_type());
  if (batch == 0 || n == 0) return out;
  dispatch_floating(anchors.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Variances<T> variances{T(variance_x), T(variance_y), T(variance_w), T(variance_h)};
    detect<T>(probabilities, offsets, anchors, nms_threshold, pos_threshold, variances, out);
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("multibox_target", TORCH_BOX(&cvlib::multibox_target_cuda));
  m.impl("multibox_detection", TORCH_BOX(&cvlib::multibox_detection_cuda));
}
