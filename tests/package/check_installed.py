"""The worked example on an installed package: what CI runs in a clean environment."""

import grouped_gemm
import grouped_gemm_backend
import torch

indices = torch.tensor([[1, 2], [0, 1], [0, 2], [1, 2]])
rows, row_id_map = grouped_gemm.permute(torch.arange(4.0).reshape(4, 1), indices)
assert row_id_map.tolist() == [2, 0, 1, 4, 5, 3, 6, 7], row_id_map
assert rows.flatten().tolist() == [1, 2, 0, 1, 3, 0, 2, 3], rows

weights = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
result = grouped_gemm.gmm(rows, weights, torch.tensor([2, 3, 3]))
assert result.flatten().tolist() == [1, 2, 0, 2, 6, 0, 6, 9], result

again, _, _ = grouped_gemm_backend.permute(torch.ones(4, 1), indices, 0, [], 0)
assert again.shape == (8, 1), again.shape
print(f"grouped_gemm {grouped_gemm.__version__} works from {grouped_gemm.__file__}")
