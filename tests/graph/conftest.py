import pytest

pytest.importorskip("torch_geometric", reason="the extra graph is not installed")
