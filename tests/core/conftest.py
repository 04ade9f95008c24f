"""Settings of the property tests: a slow machine is no failure."""

from hypothesis import settings

settings.register_profile("core", deadline=None, max_examples=100)
settings.load_profile("core")
