// SSD's loss with hard negative mining, and its gradient, on CUDA.
//
// Forward: (1) sixteen threads per anchor compute log-sum-exp and loss, with the order of sums of
// the CPU; (2) one block per image finds the hardness of its k-th hardest negative, eight bits at a
// time with a histogram in shared memory (integer counts, so the order of additions is free), then
// keeps the anchors at least as hard in their order, and sums the image; (3) one block adds the
// images. All sums are in double, as trees. Work: one pass over the logits, and four to eight over
// the losses. No sort, no host synchronisation. Backward: one thread per number.
#include <tuple>

#include "../cuda_block.cuh"
#include "../cuda_launch.cuh"
#include "ssd_loss.h"
#include "ssd_loss_arguments.h"

namespace cvlib {
namespace {

constexpr int kAnchorsPerBlock = kThreads / kLanes;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
static_assert(kDigits == kThreads);

// A class out of range counts as -1.
__device__ int64_t read_class(const int64_t* classes, int64_t i, int64_t columns) {
  const int64_t label = classes[i];
  return label < 0 || label >= columns ? int64_t{-1} : label;
}

template <class T>
__global__ void loss_kernel(const T* __restrict__ logits, const int64_t* __restrict__ classes,
                            int64_t rows, int64_t columns, T* __restrict__ log_sum_exp,
                            T* __restrict__ losses) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kAnchorsPerBlock + threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  const bool exists = i < rows;  // others still take part in the shuffles
  const T* row = logits + (exists ? i : 0) * columns;
  const int64_t full = columns / kLanes * kLanes;
  // The tail comes first, as on the CPU: a sum depends on its order.
  const bool has_tail = full + lane < columns;
  T largest = T(-INFINITY);
  if (has_tail) largest = larger(largest, row[full + lane]);
  for (int64_t k = lane; k < full; k += kLanes) largest = larger(largest, row[k]);
  for (int step = kLanes / 2; step > 0; step /= 2) {
    largest = larger(largest, __shfl_xor_sync(kFullWarp, largest, step));
  }
  T sum = has_tail ? vector_exp(row[full + lane] - largest) : T(0);
  for (int64_t k = lane; k < full; k += kLanes) sum += vector_exp(row[k] - largest);
  for (int step = kLanes / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, step);
  }
  if (!exists || lane != 0) return;
  const T result = largest + vector_log(sum);
  const int64_t own = read_class(classes, i, columns);
  log_sum_exp[i] = result;
  losses[i] = own < 0 ? T(0) : result - row[own];
}

struct Selection {
  int64_t wanted;  // number of keys to keep among those with the prefix
  int digit;
};

// The digit of the wanted-th largest of the counted keys, and the number to keep with that digit.
__device__ Selection pick_digit(const unsigned* counts, int64_t wanted) {
  for (int digit = kDigits - 1; digit > 0; --digit) {
    if (static_cast<int64_t>(counts[digit]) >= wanted) return {wanted, digit};
    wanted -= counts[digit];
  }
  return {wanted, 0};
}

// The key of the wanted-th hardest candidate of an image, returned to all threads of the block,
// which must all take part. `wanted` becomes the number of keys equal to it that are kept.
template <class T>
__device__ Hardness<T> find_bound(const T* losses, const int64_t* classes, int64_t anchors,
                                  int64_t& wanted) {
  using Key = Hardness<T>;
  __shared__ unsigned counts[kDigits];
  __shared__ Selection picked;
  Key bound = 0;
  for (int shift = 8 * static_cast<int>(sizeof(Key)) - kDigitBits; shift >= 0;
       shift -= kDigitBits) {
    counts[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < anchors; i += kThreads) {
      const Key key = hardness(losses[i], classes[i] == 0);
      // Only keys with the prefix; anchors that are not candidates have negative keys.
      if (key < 0 || ((key ^ bound) >> shift) >> kDigitBits != 0) continue;
      atomicAdd(&counts[static_cast<int>((key >> shift) & (kDigits - 1))], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) picked = pick_digit(counts, wanted);
    __syncthreads();
    bound |= static_cast<Key>(picked.digit) << shift;
    wanted = picked.wanted;
    __syncthreads();
  }
  return bound;
}

template <class T>
__global__ void mine_kernel(const T* __restrict__ all_losses,
                            const int64_t* __restrict__ all_classes,
                            const T* __restrict__ all_offsets,
                            const T* __restrict__ all_target_offsets, int64_t anchors,
                            int64_t columns, double ratio, bool* __restrict__ all_kept,
                            double* __restrict__ sums) {
  const int64_t first = blockIdx.x * anchors;
  const T* losses = all_losses + first;
  const int64_t* classes = all_classes + first;
  const T* offsets = all_offsets + 4 * first;
  const T* target_offsets = all_target_offsets + 4 * first;
  bool* kept = all_kept + first;
  int64_t positives = 0, negatives = 0;
  for (int64_t i = threadIdx.x; i < anchors; i += kThreads) {
    const int64_t label = read_class(classes, i, columns);
    positives += label > 0;
    negatives += label == 0;
  }
  positives = tree_sum(positives);
  negatives = tree_sum(negatives);
  int64_t wanted = count_hard(ratio, positives, negatives);
  const bool mines = wanted > 0;
  const Hardness<T> bound = mines ? find_bound(losses, classes, anchors, wanted) : Hardness<T>(0);
  double class_sum = 0, box_sum = 0;
  for (int64_t base = 0; base < anchors; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    const bool exists = i < anchors;
    const int64_t label = exists ? read_class(classes, i, columns) : int64_t{-1};
    const Hardness<T> key = hardness(exists ? losses[i] : T(0), mines && label == 0);
    int ties = 0;
    const int before = count_before(key == bound, ties);
    const bool hard = key > bound || (key == bound && before < wanted);
    wanted = ties < wanted ? wanted - ties : 0;
    if (!exists) continue;
    const bool keeps = label > 0 || (mines && label == 0 && hard);
    kept[i] = keeps;
    if (keeps) class_sum += losses[i];
    if (label <= 0) continue;
    for (int64_t k = 4 * i; k < 4 * i + 4; ++k) {
      box_sum += smooth_l1(offsets[k] - target_offsets[k]);
    }
  }
  class_sum = tree_sum(class_sum);
  box_sum = tree_sum(box_sum);
  if (threadIdx.x != 0) return;
  sums[3 * blockIdx.x] = class_sum;
  sums[3 * blockIdx.x + 1] = box_sum;
  sums[3 * blockIdx.x + 2] = static_cast<double>(positives);
}

template <class T>
__global__ void finish_kernel(const double* __restrict__ sums, int64_t images,
                              T* __restrict__ class_loss, T* __restrict__ box_loss,
                              T* __restrict__ divisor) {
  double class_sum = 0, box_sum = 0, positives = 0;
  for (int64_t i = threadIdx.x; i < images; i += kThreads) {
    class_sum += sums[3 * i];
    box_sum += sums[3 * i + 1];
    positives += sums[3 * i + 2];
  }
  class_sum = tree_sum(class_sum);
  box_sum = tree_sum(box_sum);
  positives = tree_sum(positives);
  if (threadIdx.x != 0) return;
  const double share = larger(positives, 1.0);
  *class_loss = static_cast<T>(class_sum / share);
  *box_loss = static_cast<T>(box_sum / share);
  *divisor = static_cast<T>(share);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> ssd_loss_cuda(const Tensor& class_logits,
                                                                 const Tensor& offsets,
                                                                 const Tensor& classes,
                                                                 const Tensor& target_offsets,
                                                                 double negative_ratio) {
  const DeviceGuard guard(class_logits.get_device_index());
  const SsdArguments arguments(class_logits, offsets, classes, target_offsets);
  const ScalarType type = arguments.logits.scalar_type();
  Tensor class_loss = empty(arguments.logits, {}, type),
         box_loss = empty(arguments.logits, {}, type);
  Tensor divisor = empty(arguments.logits, {}, type);
  Tensor log_sum_exp = empty(arguments.logits, {arguments.images, arguments.anchors}, type);
  Tensor losses = empty(arguments.logits, {arguments.images, arguments.anchors}, type);
  Tensor kept = empty(arguments.logits, {arguments.images, arguments.anchors}, ScalarType::Bool);
  Tensor sums = empty(arguments.logits, {arguments.images, 3}, ScalarType::Double);
  const cudaStream_t stream = current_stream(arguments.logits);
  const int64_t* labels = data<int64_t>(arguments.classes);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    if (arguments.rows() > 0) {
      loss_kernel<T><<<blocks_for(arguments.rows(), kAnchorsPerBlock), kThreads, 0, stream>>>(
          data<T>(arguments.logits), labels, arguments.rows(), arguments.columns,
          mutable_data<T>(log_sum_exp), mutable_data<T>(losses));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    if (arguments.images > 0) {
      mine_kernel<T><<<static_cast<unsigned>(arguments.images), kThreads, 0, stream>>>(
          data<T>(losses), labels, data<T>(arguments.offsets), data<T>(arguments.target_offsets),
          arguments.anchors, arguments.columns, negative_ratio, mutable_data<bool>(kept),
          mutable_data<double>(sums));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    finish_kernel<T><<<1, kThreads, 0, stream>>>(
        data<double>(sums), arguments.images, mutable_data<T>(class_loss),
        mutable_data<T>(box_loss), mutable_data<T>(divisor));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {class_loss, box_loss, divisor, log_sum_exp, kept};
}

template <class T>
__global__ void class_gradient_kernel(const T* __restrict__ logits,
                                      const int64_t* __restrict__ classes,
                                      const T* __restrict__ log_sum_exp,
                                      const bool* __restrict__ kept, const T* __restrict__ grad,
                                      const T* __restrict__ divisor, int64_t numbers,
                                      int64_t columns, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= numbers) return;
  const int64_t row = i / columns;
  if (!kept[row]) {
    out[i] = T(0);
    return;
  }
  const T factor = *grad * (T(1) / *divisor);
  const T value = factor * vector_exp(logits[i] - log_sum_exp[row]);
  out[i] = classes[row] == i - row * columns ? value - factor : value;
}

template <class T>
__global__ void box_gradient_kernel(const T* __restrict__ offsets,
                                    const T* __restrict__ target_offsets,
                                    const int64_t* __restrict__ classes, const T* __restrict__ grad,
                                    const T* __restrict__ divisor, int64_t numbers, int64_t columns,
                                    T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= numbers) return;
  const T factor = *grad * (T(1) / *divisor);
  const T slope = smooth_l1_gradient(offsets[i] - target_offsets[i]);
  out[i] = read_class(classes, i / 4, columns) > 0 ? factor * slope : T(0);
}

std::tuple<Tensor, Tensor> ssd_loss_backward_cuda(const Tensor& grad_class, const Tensor& grad_box,
                                                  const Tensor& class_logits, const Tensor& offsets,
                                                  const Tensor& classes,
                                                  const Tensor& target_offsets,
                                                  const Tensor& divisor, const Tensor& log_sum_exp,
                                                  const Tensor& kept) {
  const DeviceGuard guard(class_logits.get_device_index());
  const SsdArguments arguments(class_logits, offsets, classes, target_offsets);
  const SsdSaved saved(arguments, divisor, log_sum_exp, kept);
  check_same_dtype(grad_class, arguments.logits);
  check_same_dtype(grad_box, arguments.logits);
  const ScalarType type = arguments.logits.scalar_type();
  Tensor to_logits =
      empty(arguments.logits, {arguments.images, arguments.anchors, arguments.columns}, type);
  Tensor to_offsets = empty(arguments.logits, {arguments.images, arguments.anchors, 4}, type);
  if (arguments.rows() == 0) return {to_logits, to_offsets};
  const cudaStream_t stream = current_stream(arguments.logits);
  const int64_t* labels = data<int64_t>(arguments.classes);
  const int64_t numbers = arguments.rows() * arguments.columns;
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    class_gradient_kernel<T><<<blocks_for(numbers), kThreads, 0, stream>>>(
        data<T>(arguments.logits), labels, data<T>(saved.log_sum_exp), data<bool>(saved.kept),
        data<T>(grad_class), data<T>(saved.divisor), numbers, arguments.columns,
        mutable_data<T>(to_logits));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    box_gradient_kernel<T><<<blocks_for(4 * arguments.rows()), kThreads, 0, stream>>>(
        data<T>(arguments.offsets), data<T>(arguments.target_offsets), labels, data<T>(grad_box),
        data<T>(saved.divisor), 4 * arguments.rows(), arguments.columns,
        mutable_data<T>(to_offsets));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {to_logits, to_offsets};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("ssd_loss", TORCH_BOX(&cvlib::ssd_loss_cuda));
  m.impl("ssd_loss_backward", TORCH_BOX(&cvlib::ssd_loss_backward_cuda));
}
