"""grouped_gemm: the expert layers of Mixture-of-Experts training in PyTorch.

Grouped GEMM (forward, dgrad, wgrad), token permutation and routing, on the CPU
and on CUDA, as torch operators over a C++ core. ``ops`` and ``backend`` are the
drop-in surface of nv-grouped-gemm and grouped_gemm; ``nn.MoE`` is a layer.
"""

from __future__ import annotations

from . import _library

_library.load_libraries()

from . import _fakes  # noqa: E402, F401 - needs the operators' schemas

_library.register_refusals()

from . import (  # noqa: E402
    backend,
    nn,  # noqa: E402, I001 - composed of the functions above
    ops,
)
from ._functional import (  # noqa: E402
    SinkhornInfo,
    gmm,
    gmm_dgrad,
    gmm_wgrad,
    sinkhorn,
)
from ._grouped_mm import grouped_mm  # noqa: E402
from ._main_grad import gmm_main_grad  # noqa: E402
from ._num_sms import get_num_sms, set_num_sms  # noqa: E402
from ._permutation import (  # noqa: E402
    MoePermuted,
    RoutedSlots,
    RowMap,
    SortedChunks,
    moe_permute,
    moe_unpermute,
    routing_map_to_indices,
    sort_chunks,
)
from ._routing import (  # noqa: E402
    MoeRouted,
    moe_route,
    router_load_balancing_loss,
    router_z_loss,
)
from .ops import permute, unpermute  # noqa: E402

__version__ = _library.version()
_library.warn_of_foreign_backend()

__all__ = [
    "MoePermuted",
    "MoeRouted",
    "RoutedSlots",
    "RowMap",
    "SinkhornInfo",
    "SortedChunks",
    "__version__",
    "backend",
    "get_num_sms",
    "gmm",
    "gmm_dgrad",
    "gmm_main_grad",
    "gmm_wgrad",
    "grouped_mm",
    "moe_permute",
    "moe_route",
    "moe_unpermute",
    "nn",
    "ops",
    "permute",
    "router_load_balancing_loss",
    "router_z_loss",
    "routing_map_to_indices",
    "set_num_sms",
    "sinkhorn",
    "sort_chunks",
    "unpermute",
]
