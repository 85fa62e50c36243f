"""Make `helpers` importable and hypothesis repeatable."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("stabdask", deadline=None, derandomize=True, database=None)
settings.load_profile("stabdask")
