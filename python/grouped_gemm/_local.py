"""DTensors: the operators see this rank's part, and its gradient goes back into the DTensor.

Called by every public function on its tensors, first of all weights. Which rank holds what, and
what must be added up over ranks, the caller knows.
"""

from __future__ import annotations

import sys

import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter, type(None))


def local(tensor):
    """This rank's part of a DTensor; anything else as it is."""
    if type(tensor) in _PLAIN:
        return tensor
    # Whoever has a DTensor has imported its module; others need not pay half a second for it.
    # isinstance, not hasattr(tensor, "to_local"): torch.compile sees no such attribute.
    module = sys.modules.get("torch.distributed.tensor")
    if module is not None and isinstance(tensor, module.DTensor):
        return tensor.to_local()
    return tensor
