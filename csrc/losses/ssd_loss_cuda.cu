// SSD's loss with hard negative mining, and its gradient, on CUDA.
//
// Forward: (1) sixteen threads for each anchor: log-sum-exp and loss, with the sums of the CPU;
// (2) one block for each image: the hardness of its k-th hardest negative, found eight bits at a
// time with a histogram in shared memory (counts of whole numbers, so their order does not matter),
// then the anchors at least as hard in their order, and the sums of the image; (3) one block adds
// the images. All sums in double, as trees. No sort, no host synchronisation.
// Backward: one thread for each number.
#include <tuple>

#include "../cuda_launch.cuh"
#include "ssd_loss.h"
#include "ssd_loss_arguments.h"
#include "tree_sum.cuh"

namespace cvlib {
namespace {

constexpr int kAnchorsPerBlock = kThreads / kLanes;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kWarps = kThreads / kWarp;
static_assert(kDigits == kThreads);

// A class out of range is as good as -1.
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
  const bool exists = i < rows;  // the others still take part in the shuffles
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
  int64_t wanted;  // how many of the keys that begin like the prefix are to be kept
  int digit;
};

// The digit of the wanted-th largest of the counted keys, and how many are wanted within it.
__device__ Selection pick_digit(const unsigned* counts, int64_t wanted) {
  for (int digit = kDigits - 1; digit > 0; --digit) {
    if (static_cast<int64_t>(counts[digit]) >= wanted) return {wanted, digit};
    wanted -= counts[digit];
  }
  return {wanted, 0};
}

// The key of the wanted-th hardest candidate of an image; `wanted` becomes how many of the keys
// equal to it are to be kept. All threads of the block take part and get the same.
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
      // The digits above agree; keys that are no candidates are negative and never do.
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

// How many threads before this one in the block have `flag`, and how many in all.
__device__ int count_before(bool flag, int& all) {
  __shared__ int warps[kWarps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const unsigned mask = __ballot_sync(kFullWarp, flag);
  if (lane == 0) warps[warp] = __popc(mask);
  __syncthreads();
  int before = __popc(mask & ((1u << lane) - 1));
  all = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += warps[w];
    all += warps[w];
  }
  __syncthreads();
  return before;
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
  const SsdArguments given(class_logits, offsets, classes, target_offsets);
  const ScalarType type = given.logits.scalar_type();
  Tensor class_loss = empty(given.logits, {}, type), box_loss = empty(given.logits, {}, type);
  Tensor divisor = empty(given.logits, {}, type);
  Tensor log_sum_exp = empty(given.logits, {given.images, given.anchors}, type);
  Tensor losses = empty(given.logits, {given.images, given.anchors}, type);
  Tensor kept = empty(given.logits, {given.images, given.anchors}, ScalarType::Bool);
  Tensor sums = empty(given.logits, {given.images, 3}, ScalarType::Double);
  const cudaStream_t stream = current_stream(given.logits);
  const int64_t* labels = data<int64_t>(given.classes);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    if (given.rows() > 0) {
      loss_kernel<T><<<blocks_for(given.rows(), kAnchorsPerBlock), kThreads, 0, stream>>>(
          data<T>(given.logits), labels, given.rows(), given.columns, mutable_data<T>(log_sum_exp),
          mutable_data<T>(losses));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    if (given.images > 0) {
      mine_kernel<T><<<static_cast<unsigned>(given.images), kThreads, 0, stream>>>(
          data<T>(losses), labels, data<T>(given.offsets), data<T>(given.target_offsets),
          given.anchors, given.columns, negative_ratio, mutable_data<bool>(kept),
          mutable_data<double>(sums));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    finish_kernel<T>
        <<<1, kThreads, 0, stream>>>(data<double>(sums), given.images, mutable_data<T>(class_loss),
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
  const SsdArguments given(class_logits, offsets, classes, target_offsets);
  const SsdSaved saved(given, divisor, log_sum_exp, kept);
  check_same_dtype(grad_class, given.logits);
  check_same_dtype(grad_box, given.logits);
  const ScalarType type = given.logits.scalar_type();
  Tensor to_logits = empty(given.logits, {given.images, given.anchors, given.columns}, type);
  Tensor to_offsets = empty(given.logits, {given.images, given.anchors, 4}, type);
  if (given.rows() == 0) return {to_logits, to_offsets};
  const cudaStream_t stream = current_stream(given.logits);
  const int64_t* labels = data<int64_t>(given.classes);
  const int64_t numbers = given.rows() * given.columns;
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    class_gradient_kernel<T><<<blocks_for(numbers), kThreads, 0, stream>>>(
        data<T>(given.logits), labels, data<T>(saved.log_sum_exp), data<bool>(saved.kept),
        data<T>(grad_class), data<T>(saved.divisor), numbers, given.columns,
        mutable_data<T>(to_logits));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    box_gradient_kernel<T><<<blocks_for(4 * given.rows()), kThreads, 0, stream>>>(
        data<T>(given.offsets), data<T>(given.target_offsets), labels, data<T>(grad_box),
        data<T>(saved.divisor), 4 * given.rows(), given.columns, mutable_data<T>(to_offsets));
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
