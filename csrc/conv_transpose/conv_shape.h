// Sizes of a transposed convolution without dilation. Shared by CPU and CUDA; no torch include.
//
// Along one axis, input position j adds its scaled kernel to the outputs j * stride - padding +
// tap. So output x belongs to segment q = (x + padding) / stride with phase r = (x + padding) %
// stride, and reads the input positions q - t through the taps r + t * stride, for t = 0 .. overlap
// - 1.
#pragma once

#include <cstdint>

#include "../host_device.h"

namespace cvlib {

struct ConvAxis {
  int64_t input, output, kernel, stride, padding;

  // Number of input positions that reach one output.
  CVLIB_HOST_DEVICE int64_t overlap() const { return (kernel + stride - 1) / stride; }
  // Number of segments of `stride` outputs that cover the output.
  CVLIB_HOST_DEVICE int64_t segments() const { return (output + padding + stride - 1) / stride; }
};

struct ConvShape {
  int64_t batch, groups;
  int64_t inputs, outputs;  // channels per group
  ConvAxis y, x;

  CVLIB_HOST_DEVICE int64_t input_plane() const { return y.input * x.input; }
  CVLIB_HOST_DEVICE int64_t output_plane() const { return y.output * x.output; }
  CVLIB_HOST_DEVICE int64_t kernel_plane() const { return y.kernel * x.kernel; }
};

}  // namespace cvlib
