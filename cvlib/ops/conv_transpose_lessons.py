"""Transposed convolution by its definition and as a matrix: slow, for reading and testing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvlib._checks import check_integer, check_shape, check_tensor, mismatch
from cvlib.ops.conv_transpose import (
    Pair,
    as_pair,
    as_pairs,
    check_conv_transpose,
    check_groups,
    output_length,
)


def conv_transpose2d_by_definition(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Add a scaled kernel to the output for every input pixel, in a loop over the pixels.

    A convolution gathers: each output pixel sums the input pixels below the kernel. A transposed
    convolution scatters: input pixel (i, j) multiplies the kernel, and the product is added to the
    output with its corner at (i * stride, j * stride). Where kernels overlap they add up. So
    ``stride`` spreads the output, ``dilation`` leaves gaps between the taps of a kernel, and
    ``padding`` is that of the opposite convolution: here it crops a border.

    Args:
        input: Shape (N, C, H, W) or (C, H, W), floating point.
        weight: Shape (C, O / groups, K, L), same dtype and device.
        bias: Shape (O,), added to every pixel at the end.
        stride: See `conv_transpose2d` for this and the other arguments.
        padding: Output pixels to crop from every side.
        output_padding: Output pixels to add below and to the right. A strided convolution maps
            several image sizes to one; this chooses among them.
        groups: Number of independent blocks of channels.
        dilation: Output pixels between the taps of a kernel.

    Returns:
        Equal to `conv_transpose2d`.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, numbers out of range, different devices, or an output without
            pixels.

    Note:
        For reading and testing: one small product per input pixel. Differentiable. Deterministic.

    References:
        Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).

    Example:
        >>> image = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
        >>> kernel = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> conv_transpose2d_by_definition(image, kernel)
        tensor([[[ 0.,  0.,  1.],
                 [ 0.,  4.,  6.],
                 [ 4., 12.,  9.]]])
    """
    batch, strides, paddings, dilations, sizes = _check_and_size(
        "conv_transpose2d_by_definition",
        *(input, weight, bias, stride, padding, output_padding, groups, dilation),
    )
    height, width = batch.shape[2:]
    spans = [dilations[d] * (weight.shape[2 + d] - 1) + 1 for d in range(2)]
    per_group = len(weight) // groups, weight.shape[1]
    output = batch.new_zeros(len(batch), groups * weight.shape[1], *sizes)
    for g in range(groups):
        ins = slice(g * per_group[0], (g + 1) * per_group[0])
        outs = slice(g * per_group[1], (g + 1) * per_group[1])
        for i in range(height):
            rows = slice(i * strides[0], i * strides[0] + spans[0], dilations[0])
            for j in range(width):
                columns = slice(j * strides[1], j * strides[1] + spans[1], dilations[1])
                scaled = torch.einsum("nc,cokl->nokl", batch[:, ins, i, j], weight[ins])
                output[:, outs, rows, columns] += scaled
    output = output[
        :, :, paddings[0] : sizes[0] - paddings[0], paddings[1] : sizes[1] - paddings[1]
    ]
    return _add_bias(output, bias, input)


def convolution_matrix(
    weight: Tensor,
    input_size: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Return the sparse matrix W of a convolution: ``conv2d(x).flatten() == W @ x.flatten()``.

    A convolution is linear in its image, so it is a matrix. Each row belongs to an output pixel and
    holds the kernel at the columns of the input pixels that it covers; all other entries are zero.
    The transposed convolution with the same weight, stride and padding is the product with W
    transposed, which maps images of the convolution's output size to its input size. It is not the
    inverse: it restores sizes, not values. But it is the convolution's gradient with respect to its
    input, because the gradient of ``W @ x`` is ``W.T @ grad``.

    Args:
        weight: Shape (O, C / groups, K, L), as in ``torch.nn.functional.conv2d``. As the weight of
            a transposed convolution it maps O channels to C.
        input_size: Height and width of the image in pixels.
        stride: Pixels from one position of the kernel to the next, at least 1.
        padding: Zeros around the image, at least 0.
        groups: Number of independent blocks of channels; divides O.
        dilation: Pixels between the taps of a kernel, at least 1.

    Returns:
        Sparse (COO) matrix of shape (O * H' * W', C * H * W), in the dtype of the weight.

    Raises:
        TypeError: ``weight`` is not a floating-point tensor.
        ValueError: Wrong shape, numbers out of range, or a kernel larger than the padded image.

    Note:
        One entry per tap and output pixel inside the image. Differentiable with
        respect to the weight. Deterministic.

    References:
        Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).

    Example:
        >>> kernel = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> convolution_matrix(kernel, (3, 3)).to_dense()
        tensor([[1., 2., 0., 3., 4., 0., 0., 0., 0.],
                [0., 1., 2., 0., 3., 4., 0., 0., 0.],
                [0., 0., 0., 1., 2., 0., 3., 4., 0.],
                [0., 0., 0., 0., 1., 2., 0., 3., 4.]])
    """
    check_tensor("convolution_matrix", "weight", weight)
    check_shape("convolution_matrix", "weight", weight, "O", "C / groups", "K", "L")
    strides, paddings, _, dilations = as_pairs("convolution_matrix", stride, padding, 0, dilation)
    check_groups("convolution_matrix", groups, len(weight), "rows of `weight`")
    size = as_pair("convolution_matrix", "input_size", input_size, 1)
    places = [
        (size[d] + 2 * paddings[d] - dilations[d] * (weight.shape[2 + d] - 1) - 1) // strides[d] + 1
        for d in range(2)
    ]
    if min(places) < 1:
        actual = (
            f"shape {tuple(weight.shape)}, with input_size {size}, padding {paddings}, "
            f"dilation {dilations}"
        )
        requirement = "hold a kernel that fits into the padded image"
        raise ValueError(mismatch("convolution_matrix", "weight", requirement, actual))
    return _matrix(weight, size, (places[0], places[1]), strides, paddings, groups, dilations)


def conv_transpose2d_by_matrix(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Multiply by the transposed matrix of a convolution, which gives the operation its name.

    The convolution from the output size to the input size has a matrix W (`convolution_matrix`).
    The result is ``W.T @ input.flatten()`` for each image.

    Args:
        input: Shape (N, C, H, W) or (C, H, W), floating point.
        weight: Shape (C, O / groups, K, L), same dtype and device.
        bias: Shape (O,), added to every pixel at the end.
        stride: See `conv_transpose2d` for this and the other arguments.
        padding: Output pixels to crop from every side.
        output_padding: Output pixels to add below and to the right.
        groups: Number of independent blocks of channels.
        dilation: Output pixels between the taps of a kernel.

    Returns:
        Equal to `conv_transpose2d`.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, numbers out of range, different devices, or an output without
            pixels.

    Note:
        For reading and testing: the matrix has one entry per tap and input pixel.
        Differentiable. Deterministic.

    References:
        Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).

    Example:
        >>> image = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
        >>> kernel = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> conv_transpose2d_by_matrix(image, kernel)
        tensor([[[ 0.,  0.,  1.],
                 [ 0.,  4.,  6.],
                 [ 4., 12.,  9.]]])
    """
    batch, strides, paddings, dilations, sizes = _check_and_size(
        "conv_transpose2d_by_matrix",
        *(input, weight, bias, stride, padding, output_padding, groups, dilation),
    )
    places = (batch.shape[2], batch.shape[3])
    height, width = (sizes[d] - 2 * paddings[d] for d in range(2))
    matrix = _matrix(weight, (height, width), places, strides, paddings, groups, dilations)
    columns = torch.sparse.mm(matrix.t(), batch.flatten(1).t())  # one per image
    output = columns.t().reshape(len(batch), groups * weight.shape[1], height, width)
    return _add_bias(output, bias, input)


def _check_and_size(
    function: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    groups: int,
    dilation: int | Sequence[int],
) -> tuple[Tensor, Pair, Pair, Pair, Pair]:
    """Return the batch, strides, paddings, dilations, and the output size before cropping."""
    strides, paddings, extra, dilations = as_pairs(
        function, stride, padding, output_padding, dilation
    )
    check_conv_transpose(function, input, weight, bias, strides, paddings, extra, groups, dilations)
    height, width = (
        output_length(
            input.shape[d - 2], weight.shape[d + 2], strides[d], 0, extra[d], dilations[d]
        )
        for d in range(2)
    )
    batch = input if input.dim() == 4 else input[None]
    return batch, strides, paddings, dilations, (height, width)


def _add_bias(output: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    """Add the bias, and remove the batch dimension if ``input`` has none."""
    if bias is not None:
        output = output + bias[:, None, None]
    return output if input.dim() == 4 else output[0]


def _matrix(
    weight: Tensor,
    size: Pair,
    places: Pair,
    stride: Pair,
    padding: Pair,
    groups: int,
    dilation: Pair,
) -> Tensor:
    """Matrix of a convolution from images of ``size`` to ``places`` positions of its kernel."""
    outputs, inputs, *kernel = weight.shape
    device = weight.device
    group = torch.arange(outputs, device=device) // (outputs // groups)
    # Index of the pixel below each tap, per axis, of shape (places, taps); may be outside the
    # image.
    pixels = [
        (torch.arange(places[d], device=device) * stride[d] - padding[d])[:, None]
        + torch.arange(kernel[d], device=device) * dilation[d]
        for d in range(2)
    ]
    y, x = pixels[0][:, None, :, None], pixels[1][None, :, None, :]  # (places y, x, taps y, x)
    channel = group[:, None] * inputs + torch.arange(inputs, device=device)  # (O, C / groups)
    place = torch.arange(places[0] * places[1], device=device).view(places)
    row = torch.arange(outputs, device=device)[:, None, None, None, None, None] * place.numel()
    row = row + place[None, None, :, :, None, None]
    column = (channel[:, :, None, None, None, None] * size[0] + y) * size[1] + x
    is_inside = ((y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])).expand_as(column)
    values = weight[:, :, None, None].expand_as(column)[is_inside]
    indices = torch.stack([row.expand_as(column)[is_inside], column[is_inside]])
    shape = (outputs * place.numel(), groups * inputs * size[0] * size[1])
    # The argument of the constructor would do, but torch 2.11 warns in spite of it.
    with torch.sparse.check_sparse_tensor_invariants(False):
        return torch.sparse_coo_tensor(indices, values, shape)


def bilinear_kernel(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the weight of a transposed convolution that upsamples by bilinear interpolation.

    The kernel is a pyramid: 1 - distance / factor along each axis, with factor = (kernel_size + 1)
    // 2. With an even kernel of twice the stride and a padding of half the stride the result equals
    ``torch.nn.functional.interpolate`` (bilinear, ``align_corners=False``) except at the border,
    where it fades to zero. Channel i maps to channel i; other pairs are zero. To upsample C
    channels independently, which is much cheaper, use ``bilinear_kernel(1, 1, k).expand(C, 1, k,
    k)`` and ``groups=C``.

    Args:
        in_channels: C, at least 1.
        out_channels: O, at least 1.
        kernel_size: K, at least 1, in output pixels.
        dtype: Dtype of the weight; torch's default dtype if ``None``.
        device: Device of the weight.

    Returns:
        Shape (C, O, K, K), for `conv_transpose2d` or ``torch.nn.ConvTranspose2d``.

    Raises:
        ValueError: A number below 1.

    Note:
        Deterministic; cost is linear in the size of the result.

    References:
        Long et al., "Fully convolutional networks for semantic segmentation" (2015).

    Example:
        >>> bilinear_kernel(1, 1, 4)[0, 0, 0]
        tensor([0.0625, 0.1875, 0.1875, 0.0625])
    """
    numbers = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
    for name, value in numbers.items():
        check_integer("bilinear_kernel", name, value, 1)
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 else factor - 0.5
    ramp = 1 - (torch.arange(kernel_size, dtype=dtype, device=device) - center).abs() / factor
    weight = torch.zeros(
        in_channels, out_channels, kernel_size, kernel_size, dtype=dtype, device=device
    )
    diagonal = range(min(in_channels, out_channels))
    weight[diagonal, diagonal] = (ramp[:, None] * ramp).to(weight)
    return weight
