// How an overlap lowers a score. Included by CPU and CUDA kernels: selection depends on every bit.
#pragma once

#include "../box_math.h"
#include "exponential.h"

namespace cvlib {

// linear: score * (1 - IoU) from the threshold on; gaussian: score * exp(IoU^2 * scale). IoU 0
// leaves the score as it is, to the bit.
template <class T>
struct SoftDecay {
  T threshold;        // of the linear rule, rounded up
  T scale;            // of the gaussian rule, -1 / sigma
  T score_threshold;  // rounded up; a box whose score sinks below it is out

  template <bool kGaussian>
  CVLIB_HOST_DEVICE T lower(T score, T iou) const {
    if constexpr (kGaussian) {
      return score * exp_of_nonpositive(iou * iou * scale);
    } else {
      return iou >= threshold ? score * (T(1) - iou) : score;
    }
  }
};

// Scores of boxes that are out or already selected; real ones are not negative.
template <class T>
constexpr T kOut = T(-1);

template <class T>
SoftDecay<T> make_soft_decay(double iou_threshold, double sigma, double score_threshold) {
  return {round_up<T>(iou_threshold), T(-1.0 / sigma), round_up<T>(score_threshold)};
}

}  // namespace cvlib
