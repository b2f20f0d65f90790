"""What every Python test shares: the device under test, seeds, poisoned memory, markers.

The suite is the specification of the public Python API. It runs unchanged on the CPU and, when
PyTorch sees a GPU, once more on CUDA: a test that takes the `device` fixture runs on each of them.
Start reading in `support/` (shapes, references, comparisons), then any `test_*.py`.
"""

import ctypes

import gpu_report
import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "grouped_gemm",
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("grouped_gemm")

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def pytest_addoption(parser):
    gpu_report.add_option(parser)


def pytest_configure(config):
    config.addinivalue_line("markers", "cuda: needs a CUDA device")
    config.addinivalue_line("markers", "large: tensors beyond 2^31 elements, tens of GB of memory")
    config.addinivalue_line(
        "markers", "small: every operator on small odd shapes, for memory checkers; seconds"
    )
    gpu_report.register(config)
    poison_cpu_allocator()
    # Products with which results are compared are small, and threads of several processes wait for
    # one another (test_gmm_policies.py on 2 busy cores: 23 s with one thread, 70 s with two).
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


@pytest.fixture(params=DEVICES)
def device(request):
    """The device under test, as a torch.device."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20240229)


def poison_cpu_allocator():
    """Lets glibc fill whatever malloc gives out with 0xFF bytes, NaN in every floating type.

    The operators allocate their results below PyTorch's fill_uninitialized_memory, so that would
    not reach them. 0x100: malloc writes the low byte of its complement, and 0 would switch it off.
    """
    m_mmap_threshold, m_perturb = -3, -6
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library; test_support.py says so
    mallopt(m_mmap_threshold, 32 << 20)  # else the kernel's zeroed pages come for large tensors
    mallopt(m_perturb, 0x100)


def poison_cuda_allocator():
    """Leaves 0xFF bytes in the free blocks of the caching allocator, small and large ones.

    Blocks that earlier tests left behind go back first: their contents would look plausible. Where
    a tensor that lives on keeps a segment, the free blocks around it are filled one by one.
    """
    torch.cuda.empty_cache()
    kept = torch.cuda.memory_snapshot()
    sizes = [b["size"] for s in kept for b in s["blocks"] if b["state"] == "inactive"]
    blocks = [torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda") for size in sizes]
    blocks += [torch.full((1 << 20,), 0xFF, dtype=torch.uint8, device="cuda") for _ in range(12)]
    blocks += [torch.full((1 << 24,), 0xFF, dtype=torch.uint8, device="cuda") for _ in range(3)]
    del blocks


@pytest.fixture(autouse=True)
def poisoned_memory(request):
    """Fresh memory holds NaN, so that an output element that nobody wrote is seen."""
    if torch.cuda.is_available() and not request.node.get_closest_marker("large"):
        callspec = getattr(request.node, "callspec", None)
        on_cuda = callspec is not None and callspec.params.get("device") == "cuda"
        if on_cuda or request.node.get_closest_marker("cuda"):
            poison_cuda_allocator()


@pytest.fixture
def restore_float32_precision():
    """Puts every spelling of PyTorch's float32 matmul precision back to where it was."""
    matmul = torch.backends.cuda.matmul
    newer = hasattr(matmul, "fp32_precision")
    yield
    torch.set_float32_matmul_precision("highest")
    if newer:
        for owner in (torch.backends, torch.backends.mkldnn.matmul, matmul):
            if hasattr(owner, "fp32_precision"):
                owner.fp32_precision = "none"
