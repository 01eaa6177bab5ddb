"""The built-in environments: a calculator to call, and a second look at one's own answer."""

from mmalign import EnvironmentSpec, hookimpl


@hookimpl
def register_environments() -> list[EnvironmentSpec]:
    return [
        EnvironmentSpec(
            name="calculator",
            summary="Arithmetic with a tool: <<12*34>> is worked out, and a right answer is worth 1",
            target="mmalign_environments.calculator:Calculator",
            dataset="arithmetic",
        ),
        EnvironmentSpec(
            name="reflection",
            summary="Answer, critique, revise: three turns, of which rewards score the last",
            target="mmalign_environments.reflection:Reflection",
        ),
    ]
