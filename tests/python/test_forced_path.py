"""A suite that ran under GG_FORCE_PATH says nothing of a path that the build does not have."""

import pytest
import torch
from gpu_report import forced_path
from grouped_gemm.bench.paths import GEMMS, Where, explain

SHAPE = {"dtype": torch.float16, "tokens": 4096, "k": 1024, "n": 1024, "experts": 8}


@pytest.mark.cuda
@pytest.mark.parametrize("op", GEMMS)
def test_float16_products_take_the_forced_path_of_this_gpu(op):
    path = forced_path()
    if path is None:
        pytest.skip("GG_FORCE_PATH forces nothing")
    if path in ("reference", "parallel"):
        pytest.skip("GG_FORCE_PATH forces a path of the CPU")
    assert f" {path} tile=" in explain(op, Where.named("cuda:0"), **SHAPE)
