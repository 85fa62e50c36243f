"""Make the helpers beside this file importable and hypothesis repeatable."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from small_atlas import Small, make_small

settings.register_profile("stabdask", deadline=None, derandomize=True, database=None)
settings.load_profile("stabdask")


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Give a small atlas on disk with its field."""
    return make_small(tmp_path)
