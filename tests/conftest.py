"""Hypothesis draws the same examples at every run, and keeps no database of failures."""

import hypothesis

hypothesis.settings.register_profile(
    "same-every-run", derandomize=True, database=None, deadline=None, max_examples=50
)
hypothesis.settings.load_profile("same-every-run")
