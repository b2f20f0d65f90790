"""The package as it is installed: import, registration, info, other packages in the way."""

import os
import pathlib
import subprocess
import sys

import grouped_gemm
import pytest
import torch
from grouped_gemm import _library

RAW_OPERATORS = {  # name -> the arguments that it writes
    "_gmm": [],
    "_gmm_out": ["out"],
    "_gmm_wgrad": [],
    "_gmm_wgrad_out": ["out"],
    "_permute": [],
    "_moe_permute": [],
    "_permute_by_map": [],
    "_permute_probs_bwd": [],
    "_unpermute": [],
    "_unpermute_bwd": [],
    "_routing_map_to_indices": [],
    "_sort_chunks": [],
    "_sinkhorn": [],
    "_route": [],
    "_route_bwd": [],
}


def python(*arguments, path=(), **environment):
    """Runs this Python as a fresh process, with `path` in front of the import path."""
    search = [str(p) for p in path]
    search += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    package = str(pathlib.Path(grouped_gemm.__file__).parents[1])
    if package not in search:
        search.append(package)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(search), **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False
    )


STRICT_IMPORT = """
import warnings
import torch  # may warn of what it likes
warnings.simplefilter("error")
import grouped_gemm, grouped_gemm_backend
print("in")
"""


def test_the_package_imports_without_a_gpu_and_without_a_warning():
    code = STRICT_IMPORT + "assert not torch.cuda.is_available()"
    result = python("-c", code, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0 and result.stdout.strip() == "in", result.stderr


def test_the_import_starts_no_cuda_context():
    code = "import torch, grouped_gemm; assert not torch.cuda.is_initialized(); print('in')"
    assert python("-c", code).stdout.strip() == "in"


@pytest.mark.parametrize(("name", "written"), RAW_OPERATORS.items(), ids=RAW_OPERATORS)
def test_every_operator_is_registered_and_its_schema_says_what_it_writes(name, written):
    schema = getattr(torch.ops.grouped_gemm, name).default._schema
    mutated = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    assert mutated == written
    assert bool(schema.returns) == (not written)


@pytest.mark.parametrize("key", ["CPU", "CUDA", "Meta"])
@pytest.mark.parametrize("name", RAW_OPERATORS)
def test_every_operator_has_a_kernel_a_fake_or_a_refusal_on_every_device(name, key):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"grouped_gemm::{name}", key)


def test_both_libraries_load_into_any_torch():
    """The CUDA library too, on a machine without a GPU: so registration is checked everywhere."""
    cuda = _library.library_path(_library.CUDA_LIBRARY)
    if cuda is None:
        pytest.skip("the CUDA library is not built")
    cpu = _library.library_path(_library.CPU_LIBRARY)
    code = (
        "import torch\n"
        f"for path in {[str(cpu), str(cuda)]}: torch.ops.load_library(path)\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        f"print(all(has('grouped_gemm::' + n, k) for n in {list(RAW_OPERATORS)} "
        "for k in ('CPU', 'CUDA')))"
    )
    result = python("-c", code, CUDA_VISIBLE_DEVICES="")
    assert result.stdout.strip() == "True", result.stderr


def test_info_tells_versions_builds_and_devices():
    result = python("-m", "grouped_gemm", "info")
    assert result.returncode == 0, result.stderr
    for fact in (grouped_gemm.__version__, torch.__version__):
        assert fact in result.stdout
    for topic in ("architectures", "driver", "device"):
        assert topic in result.stdout.lower()
    if torch.cuda.is_available():
        assert torch.cuda.get_device_name(0) in result.stdout


FOREIGN = "raise RuntimeError('the foreign module was imported')\n"


@pytest.fixture(params=["module", "extension", "extension beside ours"])
def foreign(request, tmp_path):
    """A folder whose grouped_gemm_backend comes first on the import path."""
    if request.param == "module":
        (tmp_path / "grouped_gemm_backend.py").write_text(FOREIGN)
        return tmp_path
    (tmp_path / "grouped_gemm_backend.abi3.so").write_bytes(b"no library")
    if request.param == "extension beside ours":  # in one folder an extension wins over a .py
        ours = pathlib.Path(grouped_gemm.__file__).parent
        (tmp_path / "grouped_gemm").symlink_to(ours)
        (tmp_path / "grouped_gemm_backend.py").symlink_to(ours.parent / "grouped_gemm_backend.py")
    return tmp_path


def test_a_foreign_backend_in_the_way_is_named_and_not_used(foreign):
    code = (
        "import torch, grouped_gemm\n"
        "y = grouped_gemm.ops.gmm(torch.ones(2, 3), torch.ones(1, 3, 4), torch.tensor([2]))\n"
        "print(y.sum().item())"
    )
    result = python("-W", "always", "-c", code, path=[foreign])
    assert "grouped_gemm_backend" in result.stderr and str(foreign) in result.stderr
    if result.returncode == 0:
        assert "Warning" in result.stderr and result.stdout.strip() == "24.0"
    else:
        assert "ImportError" in result.stderr.strip().split("\n")[-1]


def test_a_module_made_by_hand_in_the_way_is_named_too():
    code = (
        "import sys, types\n"
        "sys.modules['grouped_gemm_backend'] = types.ModuleType('grouped_gemm_backend')\n"
        "import grouped_gemm\nprint(grouped_gemm.__version__)"
    )
    result = python("-W", "always", "-c", code)
    assert result.stdout.strip() == grouped_gemm.__version__, result.stderr
    assert "would load <module 'grouped_gemm_backend'>" in result.stderr


def test_info_names_packages_in_the_way(tmp_path):
    (tmp_path / "grouped_gemm_backend.py").write_text(FOREIGN)
    metadata = tmp_path / "nv_grouped_gemm-1.1.4.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: nv-grouped-gemm\nVersion: 1.1.4\n")
    result = python("-m", "grouped_gemm", "info", path=[tmp_path])
    assert result.returncode == 0, result.stderr
    assert "grouped_gemm_backend" in result.stdout and str(tmp_path) in result.stdout
    assert "nv-grouped-gemm" in result.stdout and "1.1.4" in result.stdout


def test_our_own_backend_module_is_not_called_foreign():
    result = python("-c", STRICT_IMPORT)
    assert result.stdout.strip() == "in", result.stderr


def test_a_library_that_cannot_be_loaded_is_an_import_error_that_names_the_mismatch(tmp_path):
    (tmp_path / _library.CPU_LIBRARY).write_bytes(b"no library")
    result = python("-c", "import grouped_gemm", GG_LIBRARY_DIR=str(tmp_path))
    last = result.stderr.strip().split("\n")[-1]
    assert result.returncode != 0 and last.startswith("ImportError: grouped_gemm")
    assert torch.__version__ in last and _library.CPU_LIBRARY in last


def test_a_too_old_torch_is_an_import_error_that_names_both_versions():
    code = "import torch; torch.__version__ = '2.4.1+cpu'; import grouped_gemm"
    result = python("-c", code)
    last = result.stderr.strip().split("\n")[-1]
    assert last.startswith("ImportError") and "2.4.1" in last and "2.10" in last


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_cuda_tensor_met_by_a_cpu_build_gets_words_not_a_dispatchers_dump():
    # no CUDA tensor can be made here, so the refusal itself is asked
    text = _library._refusal("CUDA")
    assert "CUDA" in text and torch.__version__ in text and "GG_CUDA=ON" in text


def test_the_version_is_one_everywhere():
    info = _library.library_info(_library.library_path(_library.CPU_LIBRARY))
    assert info.version == grouped_gemm.__version__
