"""Settings that hold for every tier: property tests are bounded in number, never in time (machines are shared)."""

from hypothesis import settings

settings.register_profile("littlelb", deadline=None, max_examples=50)
settings.load_profile("littlelb")
