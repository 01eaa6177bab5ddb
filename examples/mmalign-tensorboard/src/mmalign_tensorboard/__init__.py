from mmalign import TrackerSpec, hookimpl


@hookimpl
def register_trackers() -> list[TrackerSpec]:
    return [
        TrackerSpec(
            name="tensorboard",
            summary="Figures and samples as TensorBoard's event files",
            target="mmalign_tensorboard.tensorboard:TensorBoard",
            packages=("tensorboard",),
        )
    ]
