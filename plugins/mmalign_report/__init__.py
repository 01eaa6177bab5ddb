"""The page of a finished run."""

from mmalign import TrackerSpec, hookimpl


@hookimpl
def register_trackers() -> list[TrackerSpec]:
    return [
        TrackerSpec(
            name="report",
            summary="Write curve.png, report.html and a model card into the run's folder",
            target="mmalign_report.page:Page",
            default=True,
        ),
    ]
