"""The built-in environments: a calculator, and reflection on one's own answer."""

from mmalign import EnvironmentSpec, hookimpl


@hookimpl
def register_environments() -> list[EnvironmentSpec]:
    return [
        EnvironmentSpec(
            name="calculator",
            summary="Arithmetic with a tool: it computes <<12*34>>, and a right answer earns 1",
            target="mmalign_environments.calculator:Calculator",
            dataset="arithmetic",
        ),
        EnvironmentSpec(
            name="reflection",
            summary="Answer, critique, revise: three turns; rewards score the last",
            target="mmalign_environments.reflection:Reflection",
        ),
    ]
