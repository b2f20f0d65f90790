"""Buffers that show a wrong access: canaries around an output, unaligned and strided inputs."""

import torch

CANARY_BYTE = 0xA5
GUARD_BYTES = 4096


class GuardedBuffer:
    """A tensor filled with NaN, between two guards that nobody may write.

    Usage: `buffer = GuardedBuffer((T, N), dtype, device)`, hand `buffer.tensor` out, then
    `buffer.assert_guards_intact()`.
    """

    def __init__(self, shape, dtype, device, fill=float("nan"), offset_elements=0):
        item = torch.empty((), dtype=dtype).element_size()
        count = 1
        for extent in shape:
            count *= extent
        self._begin = GUARD_BYTES + offset_elements * item
        self._end = self._begin + count * item
        total = -(-(self._end + GUARD_BYTES) // 8) * 8
        self._storage = torch.full((total,), CANARY_BYTE, dtype=torch.uint8, device=device)
        self.tensor = self._storage.view(dtype)[self._begin // item : self._begin // item + count]
        self.tensor = self.tensor.view(shape)
        if fill is not None:
            self.tensor.fill_(fill)

    def assert_guards_intact(self):
        before, after = self._storage[: self._begin], self._storage[self._end :]
        assert (before == CANARY_BYTE).all(), "bytes in front of the buffer were written"
        assert (after == CANARY_BYTE).all(), "bytes behind the buffer were written"


def unaligned(tensor):
    """The same values at a base pointer one element past a 256-byte boundary."""
    storage = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    copy = storage[1:].view(tensor.shape)
    copy.copy_(tensor)
    assert copy.data_ptr() % 16 != 0
    return copy


def fenced(tensor):
    """The same values amid memory full of NaN, so that a read beside them poisons the result."""
    buffer = GuardedBuffer(tensor.shape, tensor.dtype, tensor.device, fill=None)
    buffer._storage.fill_(0xFF)
    buffer.tensor.copy_(tensor)
    return buffer.tensor


def column_slice(tensor):
    """The same values as a view whose rows lie further apart than they are long."""
    wide = torch.full(
        (*tensor.shape[:-1], tensor.shape[-1] + 3), float("nan"), device=tensor.device
    ).to(tensor.dtype)
    view = wide[..., 1 : 1 + tensor.shape[-1]]
    view.copy_(tensor)
    return view


def transposed_storage(tensor):
    """The same values as a view whose last two dimensions are stored the other way round."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def every_second_row(tensor):
    """The same values as a view that skips every second row of a larger tensor."""
    doubled = torch.full((2 * tensor.shape[0], *tensor.shape[1:]), float("nan")).to(tensor.device)
    view = doubled.to(tensor.dtype)[::2]
    view.copy_(tensor)
    return view


LAYOUTS = {
    "unaligned": unaligned,
    "column_slice": column_slice,
    "transposed": transposed_storage,
    "every_second_row": every_second_row,
}
