"""The number of multiprocessors that grouped GEMM takes can be set."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import _library
from grouped_gemm.bench.paths import Where, explain
from support.shapes import random_operands


@pytest.fixture(autouse=True)
def all_again():
    yield
    grouped_gemm.set_num_sms(None)


def test_it_is_none_at_the_start_and_what_was_set_later():
    assert grouped_gemm.get_num_sms() is None
    grouped_gemm.set_num_sms(17)
    assert grouped_gemm.get_num_sms() == 17
    grouped_gemm.set_num_sms(None)
    assert grouped_gemm.get_num_sms() is None


@pytest.mark.parametrize("num_sms", [0, -1])
def test_fewer_than_one_is_an_error(num_sms):
    with pytest.raises(ValueError, match=r"set_num_sms: num_sms got .*; needs 1 or more"):
        grouped_gemm.set_num_sms(num_sms)


@pytest.mark.skipif(
    _library.library_path(_library.CUDA_LIBRARY) is None, reason="this build has the CPU part only"
)
@pytest.mark.parametrize(("path", "sms"), [("sm80", 108), ("sm90", 132)])
@pytest.mark.parametrize("op", ["gmm", "gmm_dgrad", "gmm_wgrad"])
def test_plans_obey_it(op, path, sms, monkeypatch):
    monkeypatch.delenv("GG_FORCE_PATH", raising=False)  # the question is about one path

    def plan():
        shape = {"tokens": 4096, "k": 1024, "n": 1024, "experts": 8, "dtype": torch.bfloat16}
        return explain(op, Where.named(path), **shape)

    if f" {path} " not in plan():
        pytest.skip(f"this build has no kernels for path {path}")
    assert f"blocks<={sms} " in plan()
    grouped_gemm.set_num_sms(40)
    assert "blocks<=40 " in plan()
    grouped_gemm.set_num_sms(500)
    assert f"blocks<={sms} " in plan()


def test_results_do_not_depend_on_it(device):
    sizes = [300, 0, 77, 1]
    a, b = random_operands(sizes, 256, 512, torch.bfloat16, device)
    batch_sizes = torch.tensor(sizes, device=device)
    expected = grouped_gemm.gmm(a, b, batch_sizes)
    for num_sms in (1, 2, 100):
        grouped_gemm.set_num_sms(num_sms)
        assert torch.equal(grouped_gemm.gmm(a, b, batch_sizes), expected)
