"""Weight gradients that go straight into Megatron's ``main_grad``, without a pass of their own.

Called by ``nn.MoE`` where its weights follow that convention, and by users.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from ._autograd import kept_sizes, raw
from ._errors import speaks_for_itself
from ._functional import _operand, _sizes, _writable
from ._local import local
from ._precision import allows_tf32


def follows_main_grad(weight: torch.Tensor) -> bool:
    """Whether Megatron's DistributedDataParallel (or who acts like it) waits for ``main_grad``."""
    return hasattr(weight, "main_grad") and hasattr(weight, "grad_added_to_main_grad")


class GroupedGemmMainGrad(torch.autograd.Function):
    """gmm_main_grad: ``apply(a, weight, sizes, trans_b, cumulative)`` -> [T, N]."""

    @staticmethod
    def forward(ctx, a, weight, sizes, trans_b, cumulative):
        sizes = kept_sizes(sizes)
        ctx.save_for_backward(a, sizes)
        ctx.weight = weight  # the parameter itself: main_grad is its attribute
        ctx.version = weight._version
        ctx.trans_b, ctx.cumulative = trans_b, cumulative
        return raw._gmm(a, _operand(weight), sizes, cumulative, trans_b, None, allows_tf32(a))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        a, sizes = ctx.saved_tensors
        weight, grad = ctx.weight, grad.to(a.dtype)
        if weight._version != ctx.version:
            raise RuntimeError(
                "gmm_main_grad: weight was changed in place between forward and backward; needs "
                "the values of the forward; step the optimizer after backward"
            )
        tf32 = allows_tf32(a)
        a_grad = dummy = None
        if ctx.needs_input_grad[0]:
            operand = local(weight).to(a.dtype)  # cast again rather than kept: autocast alone casts
            a_grad = raw._gmm(grad, operand, sizes, ctx.cumulative, not ctx.trans_b, None, tf32)
        if ctx.needs_input_grad[1]:
            main_grad = _writable("gmm_main_grad", "main_grad", weight.main_grad)
            raw._gmm_wgrad_out(a, grad, sizes, ctx.cumulative, ctx.trans_b, main_grad, True, tf32)
            dummy = _dummy_grad(weight)
        return a_grad, dummy, None, None, None


def _dummy_grad(weight: torch.Tensor) -> torch.Tensor | None:
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    zeros = getattr(weight, "zero_out_wgrad", False)
    return torch.zeros_like(weight) if zeros else torch.empty_like(weight)


_outside_of_graphs = torch.compiler.disable(
    GroupedGemmMainGrad.apply,
    reason="gmm_main_grad changes attributes of the weight in backward, which no graph can; "
    "compile without fullgraph=True, or call gmm",
)


@speaks_for_itself(b="weight")
def gmm_main_grad(
    a: torch.Tensor,
    weight: torch.Tensor,
    batch_sizes: torch.Tensor | None = None,
    trans_b: bool = False,
    *,
    offs: torch.Tensor | None = None,
) -> torch.Tensor:
    """:func:`gmm` whose backward adds the weight's gradient to ``weight.main_grad``.

    Megatron-LM's convention for gradient accumulation fusion: the gradient never exists as a
    tensor of its own. Where ``weight.grad_added_to_main_grad`` exists, backward sets it to True
    and gives autograd a placeholder whose values mean nothing (zeros where
    ``weight.zero_out_wgrad`` is true), so that hooks on the parameter still run; without that
    attribute ``weight.grad`` stays as it was. ``nn.MoE`` takes this way by itself for weights
    that have both attributes.

    Under :func:`torch.compile` the graph breaks here, so that ``fullgraph=True`` is an error:
    backward changes attributes of the weight. Under autocast ``a`` and ``weight`` are cast; the
    gradient is added to ``main_grad`` in the dtype that this has.

    Args:
        a, batch_sizes, trans_b, offs: as in gmm.
        weight: gmm's ``b``, a parameter with an attribute ``main_grad`` of its shape, float32 or
            of its dtype (of the dtype that autocast gives it).

    Returns:
        [T, N], differentiable in ``a`` and ``weight``.

    Raises:
        ValueError: ``weight`` has no ``main_grad``, or one of another shape or dtype.
        RuntimeError: as in gmm; in backward, if the weight has changed since the forward.
    """
    sizes, cumulative = _sizes("gmm_main_grad", batch_sizes, offs)
    main_grad = getattr(weight, "main_grad", None)
    if not isinstance(main_grad, torch.Tensor):
        raise ValueError(
            f"gmm_main_grad: weight got main_grad {type(main_grad).__name__}; needs a tensor of "
            f"shape {tuple(weight.shape)}; set weight.main_grad, or call gmm"
        )
    a, main_grad, shape = _operand(a), local(main_grad), local(weight).shape
    if main_grad.shape != shape or main_grad.dtype not in (torch.float32, a.dtype):
        raise ValueError(
            f"gmm_main_grad: weight got main_grad {tuple(main_grad.shape)} {main_grad.dtype}; "
            f"needs {tuple(shape)}, torch.float32 or {a.dtype}"
        )
    apply = _outside_of_graphs if torch.compiler.is_compiling() else GroupedGemmMainGrad.apply
    return apply(a, weight, sizes, trans_b, cumulative)
