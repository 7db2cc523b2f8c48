"""For all tests: how long an example of hypothesis takes tells of the machine only, and the seed is ours.

Where ``CI`` is set, hypothesis would draw by a rule of its own (``derandomize``), whatever the seed.
"""

from hypothesis import settings

settings.register_profile("any machine", deadline=None, derandomize=False)
settings.load_profile("any machine")
