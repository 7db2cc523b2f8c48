"""For all tests: how long an example of hypothesis takes says something about the machine only."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
