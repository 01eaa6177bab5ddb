'''A Python function as a reward: `--set rollout.rewards='[{"name": "function", "function": "mine.py:score"}]'`.

    # mine.py
    def score(prompts, answers, solutions):
        """Lists of equal length -> a list of numbers, one for each answer."""
        return [float("please" in answer) for answer in answers]

It is called with keywords, as many of these as it has parameters: `prompts` (texts, or messages as lists of {"role",
"content"}), `answers` (texts), `solutions` (texts, empty where an example has none), `keys` of the examples, `ended`
(whether the end token came). Any other parameter is a column of the data, under its own name and with its own values,
None where a row has none; `**kwargs` takes them all. TRL's reward functions run as they are: `completions` are the
answers (to messages, as messages), `completion_ids` their tokens; where a function takes these, a column of the data
wins over a keyword that only mmalign has, such as `answers`. None in place of a number: no score for that answer.
'''

import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mmalign.contract.examples import ImageRef
from mmalign.data.images import describe
from mmalign.errors import OWN_FILE, UsageError, did_you_mean
from mmalign.language.messages import as_rows

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers

_HINT = 'As "package.module:name" or "path/to/file.py:name".'
_TRLS = ("prompts", "completions", "completion_ids")
_ALWAYS = ("solution",)  # filled with the examples' solutions, where no column has this name
KEYWORDS = ("prompts", "answers", "solutions", "keys", "ended", "completions", "completion_ids")


def _place(value: str) -> str:
    """The path of a file made absolute, so that a run can be resumed from any directory."""
    module, _, name = value.rpartition(":")
    if not module or not name.isidentifier():
        raise ValueError(f"names no function. {_HINT}")
    if not module.endswith(".py"):
        if not all(name.isidentifier() for name in module.split(".")):
            raise ValueError(f"{module!r} is neither a module nor a .py file. {_HINT}")
        return value
    path = Path(module).expanduser().absolute()
    if not path.is_file():
        raise ValueError(f"no file {module}")
    return f"{path}:{name}"


class FunctionConfig(BaseModel):
    """The function to call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: Annotated[str, AfterValidator(_place)] = Field(
        description='"package.module:name", from the current folder too, or "path/to/file.py:name"'
    )

    def places(self) -> tuple[Path, ...]:
        """The file, if the function is in one: a resumed run compares its content."""
        module = self.function.rpartition(":")[0]
        return (Path(module),) if module.endswith(".py") else ()


class Function:
    """Imported when the reward is created. Its code runs in this process, with all your rights."""

    Config: ClassVar[type[BaseModel]] = FunctionConfig

    def __init__(self, config: FunctionConfig) -> None:
        """Raises UsageError for a function that cannot be imported or called."""
        self.config = config
        self._function = _load(config.function)
        self._takes = _signature(self._function, config.function)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raises UsageError for a parameter that neither a keyword nor a column fills."""
        filled = {*KEYWORDS, *columns, *(_ALWAYS if "solution" not in columns else ())}
        unknown = next((name for name in self._takes.required if name not in filled), None)
        if unknown is not None:
            near = did_you_mean(unknown, [*KEYWORDS, *columns])
            raise UsageError(
                f"{self.config.function} has a parameter {unknown!r}, and the data have no such column; they have "
                f"{', '.join(columns) or 'none besides the prompt'}",
                hint=f"{near} Parameters may also be: {', '.join(KEYWORDS)}.".strip(),
            )

    def score(self, answers: "Answers") -> Any:
        """[M], or whatever the function returns: the list of rewards checks it. Raises UsageError as
        `check_columns`."""
        self.check_columns(answers.column_names())
        takes, values = self._takes, _values(answers, trl=bool({"completions", "completion_ids"} & self._takes.names))
        named = values if takes.takes_all else {name: values[name] for name in takes.by_keyword if name in values}
        positional = [values[name] for name in takes.by_place if name in values]
        return self._function(*positional, **{name: v for name, v in named.items() if name not in takes.by_place})


def _load(place: str) -> Callable[..., Any]:
    where, _, name = place.rpartition(":")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_path(where)
    except (Exception, SystemExit) as error:  # importing runs a stranger's code
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}", hint=_HINT) from error
    members = vars(module)
    if name not in members:
        near = did_you_mean(name, [key for key, value in members.items() if callable(value)])
        raise UsageError(f"{where} has no {name!r}", hint=f"{near} {_HINT}".strip())
    if not callable(members[name]):
        raise UsageError(f"{place} is not a function but {type(members[name]).__name__}", hint=_HINT)
    if inspect.iscoroutinefunction(members[name]):
        raise UsageError(f"{place} is an async function", hint="Give an ordinary function that calls asyncio.run.")
    return members[name]


def _from_path(module: str) -> Any:
    with _importable(Path.cwd()):
        return importlib.import_module(module)


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"{OWN_FILE}{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    with _importable(path.parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside the context, modules of the folder can be imported, as when Python runs a file in it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@dataclass(frozen=True)
class _Signature:
    """Names of parameters. by_place: positional only; by_keyword: the others; required: without a default; takes_all:
    has `**kwargs`."""

    by_place: tuple[str, ...]
    by_keyword: tuple[str, ...]
    required: tuple[str, ...]
    takes_all: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset((*self.by_place, *self.by_keyword))


def _signature(function: Callable[..., Any], place: str) -> _Signature:
    """Raises UsageError for a function that takes no answers."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{place} has no readable signature: {error}", hint="Wrap it in a function of yours."
        ) from error
    kinds = inspect.Parameter
    plain = [each for each in parameters if each.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    takes_all = any(each.kind is kinds.VAR_KEYWORD for each in parameters)
    if not takes_all and not any(each.name in KEYWORDS for each in plain):
        raise UsageError(f"{place} has no parameter for answers", hint=f"Parameters may be: {', '.join(KEYWORDS)}.")
    return _Signature(
        tuple(each.name for each in plain if each.kind is kinds.POSITIONAL_ONLY),
        tuple(each.name for each in plain if each.kind is not kinds.POSITIONAL_ONLY),
        tuple(each.name for each in plain if each.default is kinds.empty),
        takes_all,
    )


def _values(answers: "Answers", *, trl: bool) -> dict[str, list[Any]]:
    """Values by keyword, in new lists for each call, because the function may change them. trl: a column takes
    precedence over a keyword that TRL does not have."""
    texts = list(zip(answers.prompts, answers.texts, strict=True))
    values = {
        "prompts": [describe(p) if isinstance(p, ImageRef) else as_rows(p) for p in answers.prompts],
        "answers": list(answers.texts),
        "solutions": list(answers.solutions),
        "keys": list(answers.keys),
        "ended": list(answers.ended),
        "completions": [t if isinstance(p, str) else [{"role": "assistant", "content": t}] for p, t in texts],
        "completion_ids": [row.tolist() for row in answers.sequences.answers.rows()],
    }
    columns = {name: copy.deepcopy(answers.column(name)) for name in answers.column_names()}
    kept = _TRLS if trl else KEYWORDS
    given = {name: column for name, column in columns.items() if name not in kept}
    # Prompts of a plugin's data may have a solution but no columns.
    return values | {name: list(answers.solutions) for name in _ALWAYS if any(answers.solutions)} | given
