"""LightGBM without its wrappers for scikit-learn, for all modules that train or load its boosters.

``import lightgbm`` imports scikit-learn, and that scipy.stats, for wrappers that nothing here uses: two of
three seconds until a job that reads a booster can begin, and a run has a hundred such jobs. LightGBM leaves
them out where scikit-learn cannot be imported, and that is what it sees here.
"""

import sys

_hidden = sys.modules.setdefault("sklearn", None) is None  # type: ignore[arg-type]
try:
    import lightgbm as lgb
finally:
    if _hidden:
        del sys.modules["sklearn"]

__all__ = ["lgb"]
