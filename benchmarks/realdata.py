"""The methods on real data: how well halves of the stars agree.

    python benchmarks/realdata.py [--seeds 1,2,3] [--methods wls,robust,learned]

Scores are those of `--method auto`, from stars dealt to two halves that are solved apart: the log likelihood of the
differences of their zero-points under the stated errors, with the sign turned, so that smaller is better and 0.1 is errors
smaller by a tenth. Beside them the standard deviation of the pulls between halves. hst_wd_standards, with groups of a few
exposures that hang on three stars, has too few stars to hold any out. Needs the data sets (CALIB_REALDATA).
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import realsets

from calib import Config, calibrate
from calib.solve.split import SplitScore


def sets() -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """Measurements, references and what the configuration says of each."""
    standards, anchors, _ = realsets.hst()
    photrix, catalogue = realsets.photrix()
    m3 = realsets.m3()
    names = {"mag": "mag_inst"}
    return {
        "hst_wd_standards": (standards, anchors, {"columns": names | {"exposure_id": "group"}}),
        "photrix_vri": (photrix, catalogue, {"columns": names, "extinction": "on"}),
        "hsc_ci_faro": (realsets.hsc().drop("zp_pipeline"), None, {"columns": names}),
        "m3_rothney, theoretical errors": (m3.drop("mag_err_total"), None, {"columns": names}),
        "m3_rothney, total errors": (m3.drop("mag_err"), None, {"columns": names | {"mag_err": "mag_err_total"}}),
    }
