"""The methods on real data: how well halves of the stars agree.

    python benchmarks/realdata.py [--seeds 1,2,3] [--methods robust,learned]

Scores are those of `--method auto`, from stars dealt to two halves that are solved apart: the log likelihood of the
differences of their zero-points under the stated errors, its sign turned, so that smaller is better and 0.1 is errors
smaller by a tenth. Beside them is the standard deviation of the pulls between halves. The groups of hst_wd_standards
hang on three stars: none can be held out. Needs the data sets (CALIB_REALDATA).
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3", help="of the dealing of stars, joined by commas")
    parser.add_argument("--methods", default="robust,learned")
    args = parser.parse_args()
    methods = args.methods.split(",")
    print(f"{platform.platform()}, Python {platform.python_version()}")
    print(f"{'data set':32s} {'n':>6s} " + " ".join(f"{m + ' score':>15s} {'pull':>5s}" for m in methods))
    for name, (table, reference, options) in sets().items():
        found: dict[str, list[dict[str, float]]] = {m: [] for m in methods}
        for seed in (int(s) for s in args.seeds.split(",")):
            told: dict[str, Any] = {}
            for method in sorted(methods):  # the learned method's scores hold the robust one's
                if method not in told:
                    config = Config(method=method, seed=seed, **options)
                    told |= calibrate(table, reference=reference, config=config).diagnostics["scores"]
            for method in methods:
                found[method].append(told[method])
        columns = [
            f"{np.mean([s['score'] for s in found[m]]):15.3f} {np.mean([s['pull_std'] for s in found[m]]):5.2f}"
            for m in methods
        ]
        print(f"{name:32s} {table.height:6d} " + " ".join(columns), flush=True)


if __name__ == "__main__":
    main()
