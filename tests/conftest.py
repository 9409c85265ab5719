"""Paths for the tests: `gemot` from `src`, helpers as `support.*`, and never the repository's root.

`python -m pytest` puts the root first on the path, and there the folder `dns` would hide dnspython.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

_TESTS = Path(__file__).parent
_ROOT = _TESTS.parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]
sys.path.insert(0, str(_TESTS))

# No verdict by the clock: on a busy machine examples are slow to make and slow to run.
settings.register_profile("gemot", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gemot")
