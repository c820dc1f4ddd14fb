// How an overlap lowers a score. Shared by CPU and CUDA, because selection depends on every bit.
#pragma once

#include "../box_math.h"
#include "exponential.h"

namespace cvlib {

// Linear: score * (1 - IoU) from the threshold on. Gaussian: score * exp(IoU^2 * scale). With IoU 0
// the score keeps every bit.
template <class T>
struct SoftDecay {
  T threshold;        // linear rule, rounded up
  T scale;            // gaussian rule, -1 / sigma
  T score_threshold;  // rounded up; boxes with lower scores are dropped

  template <bool kGaussian>
  CVLIB_HOST_DEVICE T lower(T score, T iou) const {
    if constexpr (kGaussian) {
      return score * exp_of_nonpositive(iou * iou * scale);
    } else {
      return iou >= threshold ? score * (T(1) - iou) : score;
    }
  }
};

// Score of dropped and selected boxes; other scores are never negative.
template <class T>
constexpr T kOut = T(-1);

template <class T>
SoftDecay<T> make_soft_decay(double iou_threshold, double sigma, double score_threshold) {
  return {round_up<T>(iou_threshold), T(-1.0 / sigma), round_up<T>(score_threshold)};
}

}  // namespace cvlib
