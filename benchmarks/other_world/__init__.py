"""A second world to try calib in: surveys simulated apart from calib.simulate, by other physics and other habits.

It shares with calib.simulate nothing but the names of columns. It is for testing alone: nothing is trained in it and
nothing is chosen by it.
"""

from other_world.presets import PRESETS
from other_world.world import OtherSurvey, other_world

__all__ = ["PRESETS", "OtherSurvey", "other_world"]
