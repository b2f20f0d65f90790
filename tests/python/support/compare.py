"""Comparisons: every element has its own bound, and bits are compared where bits are promised."""

import math

import torch


def bits(tensor):
    """The bytes of a tensor on the CPU, so that NaN equals NaN and -0 differs from 0."""
    return tensor.detach().cpu().contiguous().view(torch.uint8)


def assert_same_bits(actual, expected, what="result"):
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    if actual.numel():
        same = bits(actual) == bits(expected)
        assert same.all(), f"{what}: {(~same).sum()} bytes of {same.numel()} differ"


def assert_all_zero(tensor, what="result"):
    wrong = (tensor.detach().cpu().double() != 0).sum().item()
    assert wrong == 0, f"{what}: {wrong} of {tensor.numel()} elements are not zero"


def assert_close_elementwise(actual, expected, bound, what="result"):
    """|actual - expected| <= bound for every element; all three broadcast to expected's shape.

    NaN in `actual` fails unless `expected` is NaN there too.
    """
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    actual = actual.detach().cpu()
    actual = actual.float().double() if actual.element_size() == 1 else actual.double()
    error = (actual - expected).abs()
    matching = (error <= bound) | (actual == expected) | (actual.isnan() & expected.isnan())
    if not matching.all():
        index = tuple((~matching).nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {(~matching).sum()} of {matching.numel()} elements are out of bounds; "
            f"at {index} got {actual[index].item()!r}, expected {expected[index].item()!r}, "
            f"error {error[index].item():.3g}, "
            f"bound {torch.as_tensor(bound).expand_as(expected)[index].item():.3g}"
        )


def rounding_bound(dtype, expected):
    """What one rounding of `expected` to `dtype` may cost."""
    info = torch.finfo(dtype)
    return info.eps * expected.abs() + info.smallest_normal * info.eps


def assert_gemm_close(actual, reference, left, right, sizes, depth, *args, previous=None, **kwargs):
    """Checks a grouped product against `reference(left, right, sizes, ...)` in float64.

    The bound of an element: one rounding to the result's dtype, plus the error of summing `depth`
    products in float32 in any order, 4 eps sqrt(depth) (|left| |right|).
    `depth` may be a number or a tensor that broadcasts to the result.
    `previous` is what was accumulated onto.
    """
    expected = reference(left, right, sizes, *args, **kwargs)
    magnitude = reference(left.abs(), right.abs(), sizes, *args, **kwargs)
    if previous is not None:
        previous = previous.detach().cpu().double()
        expected = expected + previous
        magnitude = magnitude + previous.abs()
    accumulated_in = torch.float64 if left.dtype == torch.float64 else torch.float32
    root = depth.double().clamp(min=1).sqrt() if torch.is_tensor(depth) else math.sqrt(depth or 1)
    bound = rounding_bound(actual.dtype, expected)
    bound = bound + 4 * torch.finfo(accumulated_in).eps * root * magnitude
    assert_close_elementwise(actual, expected, bound, reference.__name__)


def wgrad_depth(sizes):
    """How many products each element of a weight gradient sums: its group's rows, as [E, 1, 1]."""
    return torch.tensor(sizes).reshape(-1, 1, 1)
