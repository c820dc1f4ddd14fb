// Sigmoid focal loss and its gradient on the CPU.
//
// One pass over logits and targets, about 60 vectorised operations per logit, without intermediate
// results in memory. Memory traffic: logits and targets (or one class per row) are read once in
// each direction; the gradient is written once. Sums are taken in double over pieces of fixed size,
// which are added in order, so that they do not depend on the number of threads.
#include <algorithm>
#include <vector>

#include "../checks.h"
#include "../parallel.h"
#include "focal.h"
#include "focal_arguments.h"

namespace cvlib {
namespace {

constexpr int64_t kBlock = 512;          // stays in the L1 cache
constexpr int64_t kPiece = 16 * kBlock;  // smallest task of a thread
constexpr int kSumLanes = 16;

template <class T>
struct FloatTargets {
  const T* values;

  // Calls write(i, term, sign) for the logits begin..end, with i from 0.
  template <class Write>
  void visit(const T* x, int64_t begin, int64_t end, const FocalSettings<T>& settings,
             const Write& write) const {
    const T* __restrict logits = x + begin;
    const T* __restrict targets = values + begin;
    for (int64_t i = 0; i < end - begin; ++i) {
      write(i, soft_term(logits[i], targets[i], settings), T(1));
    }
  }
};

// First all logits as negatives, in one vectorised loop; then those of the rows' classes again.
template <class T>
struct ClassTargets {
  const int64_t* classes;
  int64_t columns;

  template <class Write>
  void visit(const T* x, int64_t begin, int64_t end, const FocalSettings<T>& settings,
             const Write& write) const {
    const T* __restrict logits = x + begin;
    for (int64_t i = 0; i < end - begin; ++i) {
      write(i, hard_term(logits[i], settings.negative), T(1));
    }
    for (int64_t row = begin / columns; row * columns < end; ++row) {
      const int64_t i = row * columns + classes[row] - begin;
      if (classes[row] < 0 || i < 0 || i >= end - begin) continue;
      write(i, hard_term(-logits[i], settings.positive), T(-1));
    }
  }
};

template <int kGamma, class T, class Targets>
void losses(const T* x, const Targets& targets, int64_t begin, int64_t end,
            const FocalSettings<T>& settings, T* __restrict out) {
  targets.visit(x, begin, end, settings, [&](int64_t i, const FocalTerm<T>& term, T) {
    out[i] = focal_loss<kGamma>(term, settings.gamma);
  });
}

template <int kGamma, class T, class Targets>
double sum_of_losses(const T* x, const Targets& targets, int64_t begin, int64_t end,
                     const FocalSettings<T>& settings) {
  alignas(64) T block[kBlock];
  double lanes[kSumLanes] = {};
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t stop = std::min(i + kBlock, end);
    losses<kGamma>(x, targets, i, stop, settings, block);
    for (int64_t j = stop - i; j % kSumLanes != 0; ++j) block[j] = T(0);
    for (int64_t j = 0; j < stop - i; j += kSumLanes) {
      for (int lane = 0; lane < kSumLanes; ++lane) lanes[lane] += block[j + lane];
    }
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// `grad` has one factor per logit, or is null if the settings include it.
template <int kGamma, class T, class Targets>
void gradients(const T* x, const Targets& targets, const T* grad, int64_t begin, int64_t end,
               const FocalSettings<T>& settings, T* out) {
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t stop = std::min(i + kBlock, end);
    T* __restrict block = out + i;
    targets.visit(x, i, stop, settings, [&](int64_t j, const FocalTerm<T>& term, T sign) {
      block[j] = sign * focal_gradient<kGamma>(term, settings.gamma);
    });
    if (grad == nullptr) continue;
    for (int64_t j = 0; j < stop - i; ++j) block[j] *= grad[i + j];
  }
}

int64_t count_pieces(int64_t numbers) { return (numbers + kPiece - 1) / kPiece; }

// Calls function(begin, end, piece) for every piece, in parallel.
template <class Function>
void for_each_piece(int64_t numbers, const Function& function) {
  parallel_for(count_pieces(numbers), 2, [&](int64_t first, int64_t last) {
    with_best_instructions([&] {
      for (int64_t piece = first; piece < last; ++piece) {
        function(piece * kPiece, std::min((piece + 1) * kPiece, numbers), piece);
      }
    });
  });
}

Tensor sigmoid_focal_loss_cpu(const Tensor& inputs, const Tensor& targets, double alpha,
                              double gamma, int64_t reduction) {
  const FocalArguments arguments(inputs, targets);
  check_values(arguments.are_classes_valid());
  const int64_t n = inputs.numel();
  const ScalarType type = arguments.inputs.scalar_type();
  const bool reduces = reduction != kNoReduction;
  Tensor out = reduces ? empty(arguments.inputs, {}, type) : empty_as(arguments.inputs);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    const FocalSettings<T> settings = focal_settings<T>(alpha, gamma, 1.0);
    const T* x = data<T>(arguments.inputs);
    T* result = mutable_data<T>(out);
    std::vector<double> sums(reduces ? count_pieces(n) : 0);
    dispatch_focal<FloatTargets<T>, ClassTargets<T>, T>(
        arguments, gamma, [&](auto constant, const auto& wanted) {
          for_each_piece(n, [&](int64_t begin, int64_t end, int64_t piece) {
            if (reduces) {
              sums[piece] = sum_of_losses<constant()>(x, wanted, begin, end, settings);
            } else {
              losses<constant()>(x, wanted, begin, end, settings, result + begin);
            }
          });
        });
    if (!reduces) return;
    double sum = 0;
    for (const double piece : sums) sum += piece;
    result[0] = static_cast<T>(reduction == kMean ? sum / static_cast<double>(n) : sum);
  });
  return as_type(out, inputs.scalar_type());
}

Tensor sigmoid_focal_loss_backward_cpu(const Tensor& grad, const Tensor& inputs,
                                       const Tensor& targets, double alpha, double gamma,
                                       int64_t reduction) {
  const FocalArguments arguments(inputs, targets);
  check_values(arguments.are_classes_valid());
  const FocalGradient factor(grad, arguments.inputs, reduction);
  const int64_t n = inputs.numel();
  Tensor out = empty_as(arguments.inputs);
  dispatch_floating(arguments.inputs.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const double scale = factor.is_shared && n > 0 ? factor.share * data<T>(factor.values)[0] : 1.0;
    const FocalSettings<T> settings = focal_settings<T>(alpha, gamma, scale);
    const T* each = factor.is_shared ? nullptr : data<T>(factor.values);
    const T* x = data<T>(arguments.inputs);
    T* result = mutable_data<T>(out);
    dispatch_focal<FloatTargets<T>, ClassTargets<T>, T>(
        arguments, gamma, [&](auto constant, const auto& wanted) {
          for_each_piece(n, [&](int64_t begin, int64_t end, int64_t) {
            gradients<constant()>(x, wanted, each, begin, end, settings, result);
          });
        });
  });
  return as_type(out, inputs.scalar_type());
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&cvlib::sigmoid_focal_loss_cpu));
  m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&cvlib::sigmoid_focal_loss_backward_cpu));
}
