import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny tensors: a second thread only waits."""
    torch.set_num_threads(1)
