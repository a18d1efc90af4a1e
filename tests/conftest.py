"""What every test shares: where real data may be, and a quiet, repeatable torch."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """Tests work on small arrays; threads only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the originals, copied into the repository."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data where a developer has some: $DATA_ROOT, or ../shared/data."""
    for folder in (os.environ.get("DATA_ROOT"), REPOSITORY.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no real data: set DATA_ROOT to a folder with mnist/, words/, .. (see README, Data)")
