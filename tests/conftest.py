"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is slow at times, which says nothing about the code. CI tries the same examples
# every time; elsewhere each run tries new ones.
settings.register_profile(
    "ossia",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("ossia")
