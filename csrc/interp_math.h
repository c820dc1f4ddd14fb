// Where bilinear sampling reads along one axis, and with which weight. Included by CPU and CUDA
// kernels alike, so that both devices read the same pixels with the same weights. No torch include.
//
// Pixel i covers i to i + 1 and its value stands at its centre. With align_corners the centres of
// the first and the last pixel coincide instead of the edges of the two images.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace cvlib {

// One axis of an image that is resized from `in` to `out` pixels, in coordinates of type T.
template <class T>
struct ResizedAxis {
  int64_t in, out;
  T step;  // source pixels for each output pixel
  bool align_corners;
};

// What an output pixel is: (1 - weight) of source pixel `low` plus `weight` of source pixel `high`.
template <class T>
struct Tap {
  int64_t low, high;
  T weight;
};

// `scale_factor` is out / in where the caller has given it, which is not always the quotient of the
// rounded sizes; 0 where only sizes are known.
template <class T>
ResizedAxis<T> resized_axis(int64_t in, int64_t out, double scale_factor, bool align_corners) {
  T step = T(0);
  if (align_corners) {
    if (out > 1) step = static_cast<T>(in - 1) / static_cast<T>(out - 1);
  } else if (scale_factor > 0) {
    step = static_cast<T>(1.0 / scale_factor);
  } else {
    step = static_cast<T>(in) / static_cast<T>(out);
  }
  return {in, out, step, align_corners};
}

// The fused multiply-add is on purpose: it rounds alike everywhere, and PyTorch's kernels have it,
// so that positions agree with theirs to the last bit however long the axis is.
template <class T>
CVLIB_HOST_DEVICE Tap<T> tap_at(const ResizedAxis<T>& axis, int64_t output) {
  if (axis.in == axis.out) return {output, output, T(0)};
  const T index = static_cast<T>(output);
  T position =
      axis.align_corners ? axis.step * index : std::fma(axis.step, index + T(0.5), T(-0.5));
  if (!(position > T(0))) position = T(0);
  const int64_t last = axis.in - 1;
  int64_t low = static_cast<int64_t>(position);
  if (low > last) low = last;
  T weight = position - static_cast<T>(low);
  if (weight > T(1)) weight = T(1);
  return {low, low < last ? low + 1 : last, weight};
}

// How much of an output pixel comes from `low` and from `high`; where the two are one pixel, all of
// it counts as `low`.
template <class T>
CVLIB_HOST_DEVICE T share_of_low(const Tap<T>& tap) {
  return tap.low == tap.high ? T(1) : T(1) - tap.weight;
}

template <class T>
CVLIB_HOST_DEVICE T share_of_high(const Tap<T>& tap) {
  return tap.low == tap.high ? T(0) : tap.weight;
}

// The first output pixel whose `low` is at least `input`, `out` when there is none. `low` never
// falls, so the outputs from first_reader(i) to first_reader(i + 1) are those with low == i. The
// inverse of tap_at says roughly where; tap_at itself decides.
template <class T>
CVLIB_HOST_DEVICE int64_t first_reader(const ResizedAxis<T>& axis, int64_t input) {
  if (input <= 0) return 0;
  if (input >= axis.in) return axis.out;
  const double step = static_cast<double>(axis.step);
  const double shift = axis.align_corners ? 0.0 : 0.5;
  const double guess = step > 0 ? (static_cast<double>(input) + shift) / step - shift : 0.0;
  int64_t output = guess < static_cast<double>(axis.out) ? static_cast<int64_t>(guess) : axis.out;
  if (output < 0) output = 0;
  while (output > 0 && tap_at(axis, output - 1).low >= input) --output;
  while (output < axis.out && tap_at(axis, output).low < input) ++output;
  return output;
}

}  // namespace cvlib
