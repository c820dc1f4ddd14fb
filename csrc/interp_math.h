// Source pixels and weights of bilinear interpolation along one axis. Shared by CPU and CUDA, so
// that both devices read the same pixels with the same weights. No torch include.
//
// Pixel i covers i to i + 1, with its value at the centre. With align_corners the centres of the
// first and last pixels of both images coincide, instead of the images' edges.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace cvlib {

// One axis of an image that is resized from `in` to `out` pixels, in coordinates of type T.
template <class T>
struct ResizedAxis {
  int64_t in, out;
  T step;  // source pixels per output pixel
  bool align_corners;
};

// An output pixel is (1 - weight) * source pixel `low` + weight * source pixel `high`.
template <class T>
struct Tap {
  int64_t low, high;
  T weight;
};

// `scale_factor` is the caller's out / in, which may differ from the quotient of the rounded sizes;
// 0 if only sizes are known.
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

// The fused multiply-add is deliberate: it rounds alike everywhere, and PyTorch's kernels use it,
// so positions agree with theirs to the last bit on axes of any length.
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

// Weights of `low` and `high`; if both are one pixel, `low` has all the weight.
template <class T>
CVLIB_HOST_DEVICE T share_of_low(const Tap<T>& tap) {
  return tap.low == tap.high ? T(1) : T(1) - tap.weight;
}

template <class T>
CVLIB_HOST_DEVICE T share_of_high(const Tap<T>& tap) {
  return tap.low == tap.high ? T(0) : tap.weight;
}

// The first output pixel whose `low` is at least `input`, or `out` if there is none. `low` never
// decreases, so the outputs from first_reader(i) to first_reader(i + 1) are those with low == i.
// The inverse of tap_at gives a first guess; tap_at itself decides.
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
