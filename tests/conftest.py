"""What holds for the whole suite."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# It asserts as a test does, and shall say as much when it fails.
pytest.register_assert_rewrite("tests.support.milter_behaviour")

# A machine that stalls for a moment is no failure of a property, nor slow to draw examples.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Let a suite that is told to stop clean up as at Ctrl-C: it runs real servers."""
    del config
    signal.signal(signal.SIGTERM, signal.default_int_handler)
