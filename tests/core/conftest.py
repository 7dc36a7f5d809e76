"""How the property tests run: the same examples each time, so that a failure is everybody's failure.

`HYPOTHESIS_PROFILE=explore` looks for new ones instead.
"""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=5000, print_blob=True, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
