from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def seeded() -> Callable[..., torch.Generator]:
    def make(seed: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    return make


@pytest.fixture
def maps() -> torch.Tensor:
    """(64, 2, 12, 20): no value is zero, so that a masked one shows; all differ, so that a move shows."""
    return 1 + torch.arange(64 * 2 * 12 * 20, dtype=torch.float32).reshape(64, 2, 12, 20)
