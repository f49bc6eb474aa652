"""Job carbon accounting for Slurm clusters. Importing this package opens nothing and starts nothing."""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hpccarbon.report.compare import compare as compare
    from hpccarbon.report.frames import load_jobs as load_jobs
    from hpccarbon.tracker.decorator import track_emissions as track_emissions
    from hpccarbon.tracker.emissions import EmissionsTracker as EmissionsTracker
    from hpccarbon.tracker.emissions import OfflineEmissionsTracker as OfflineEmissionsTracker
    from hpccarbon.tracker.output import OutputMethod as OutputMethod

_LAZY = {
    "EmissionsTracker": "hpccarbon.tracker.emissions",
    "OfflineEmissionsTracker": "hpccarbon.tracker.emissions",
    "OutputMethod": "hpccarbon.tracker.output",
    "compare": "hpccarbon.report.compare",
    "load_jobs": "hpccarbon.report.frames",
    "track_emissions": "hpccarbon.tracker.decorator",
}
"""Public names, and the module each is loaded from when it is first asked for."""


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
