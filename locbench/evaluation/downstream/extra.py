"""Whether the packages that detection needs are here. Imports none of them."""

from __future__ import annotations

from importlib.util import find_spec

from locbench.errors import UserError

# By what is imported: forks have other names as packages. What they need themselves they bring.
PACKAGES = ("mmdet", "mmengine", "mmcv", "pycocotools", "shapely")
REMEDY = "run python -m pip install -c constraints.txt -e '.[detection]'"


def missing_packages() -> list[str]:
    """Those of the detection extra that cannot be imported."""
    return [name for name in PACKAGES if find_spec(name) is None]


def check_detection_extra() -> None:
    """UserError, which says what to install, where a package of the detection extra is missing."""
    if missing := missing_packages():
        raise UserError(f"detection needs {missing[0]}, which is not installed: {REMEDY}")
