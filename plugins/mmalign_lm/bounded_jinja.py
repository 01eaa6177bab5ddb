"""Renders chat templates as transformers does, within limits of memory and time that are checked before each operation.

    text, spans = render(source, {"messages": [...], "tools": None, "add_generation_prompt": True})

A chat template comes with a model, so it is a stranger's program. jinja2's sandbox keeps it from Python and from files,
but not from `'x' * 6000000000` or from nested loops. Here each operation that can make a long value is measured before
it runs, every iteration of a loop and every call of a macro checks the time, and a text is joined only once its length
is known.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from types import BuiltinMethodType, FunctionType
from typing import Any

import jinja2
from jinja2 import nodes, pass_environment
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mmalign.errors import BadSample
from mmalign_lm.jinja_meter import Meter, are_ints, require_format, require_method, require_number, require_product

_UNBOUNDED = "lipsum", "urlize", "xmlattr", "wordwrap", "pprint"  # functions and filters that no chat template needs

# Filters that do not turn a list into text. Loops over long conversations call them, so their input is not measured.
_WITHOUT_TEXT = frozenset(
    {"length", "count", "first", "last", "default", "d", "items", "select", "selectattr", "reject", "rejectattr", "map",
     "list", "reverse"}
)  # fmt: skip


_METER: ContextVar[Meter] = ContextVar("meter")


def render(source: str, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]] | None]:
    """(the text, the spans that `{% generation %}` encloses). The spans are None without that tag, and where the tag is
    in a block whose text the template may still change or move, as in a macro.

    Raises BadSample past a limit, and whatever jinja2 and the template raise.
    """
    template, marks = _compiled(source)
    meter = Meter(variables)
    token = _METER.set(meter)
    try:
        pieces = []
        for piece in template.generate(**variables):
            meter.written += len(piece)
            meter.require(meter.written)
            pieces.append(piece)
    finally:
        _METER.reset(token)
    return "".join(pieces), meter.spans if marks else None


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> tuple[jinja2.Template, bool]:
    environment = _Environment()
    tree = environment.parse(source)
    has_spans = _tells_spans(tree)
    tick = nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None))
    for loop in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
        loop.body.insert(0, tick)
    code = environment.compile(_with_measured_concat(tree))
    template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
    return template, has_spans


def _tells_spans(tree: nodes.Template) -> bool:
    """Whether there are generation tags and each writes straight into the text. Text inside macros, `set`, `filter`,
    `call` and recursive loops is written later. A nested tag marks text that is marked already."""
    buffers = [*tree.find_all((nodes.Macro, nodes.FilterBlock, nodes.AssignBlock))]
    buffers += [block for block in tree.find_all(nodes.CallBlock) if not _is_generation(block)]
    buffers += [loop for loop in tree.find_all(nodes.For) if loop.recursive]
    is_buffered = any(_is_generation(block) for buffer in buffers for block in buffer.find_all(nodes.CallBlock))
    return not is_buffered and any(map(_is_generation, tree.find_all(nodes.CallBlock)))


def _is_generation(block: nodes.CallBlock) -> bool:
    return (
        isinstance(block.call.node, nodes.ExtensionAttribute) and block.call.node.identifier == _Generation.identifier
    )


def _with_measured_concat(node: nodes.Node) -> Any:
    """`a ~ b` as a call: jinja2 passes the other operators to the environment, but not this one."""
    for name, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, name, _with_measured_concat(value))
        elif isinstance(value, list):
            setattr(node, name, [_with_measured_concat(v) if isinstance(v, nodes.Node) else v for v in value])
    if isinstance(node, nodes.Concat):
        return nodes.Call(nodes.EnvironmentAttribute("join_texts"), node.nodes, [], None, None)
    return node


class _Generation(Extension):
    """`{% generation %}`, transformers' tag around what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        meter, text = _METER.get(), caller()
        meter.spans.append((meter.written, meter.written + len(text)))
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """Has the filters, functions and tags that transformers gives to chat templates."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        # optimized=False: no constants are folded during compilation, where no limit applies.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols],
            finalize=lambda value: _METER.get().made(value),
        )  # fmt: skip
        self.filters |= {"tojson": _tojson, "join": _join}
        known: dict[str, Any] = self.globals
        known |= {"raise_exception": _raise, "strftime_now": _now, "dict": _dict, "namespace": _Namespace}
        for name in _UNBOUNDED:
            known.pop(name, None)
            self.filters.pop(name, None)
        self.filters = {name: _measured(name, function) for name, function in self.filters.items()}

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:  # pyrefly: ignore[bad-override]
        """Joins the pieces of macros and blocks in compiled templates."""
        return _concat(pieces)

    def tick(self) -> None:
        _METER.get().tick()

    def join_texts(self, *values: Any) -> str:
        """`a ~ b`."""
        meter = _METER.get()
        meter.arguments(v for v in values if not isinstance(v, int))
        return meter.made(_concat([str(value) for value in values]))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        meter = _METER.get()
        if operator == "*":
            require_product(meter, left, right)
        elif operator == "**":
            require_number(left.bit_length() * right if are_ints(left, right) else 0)
        elif operator == "%" and isinstance(left, str):
            require_format(meter, left, right if isinstance(right, tuple) else (right,))
        elif operator == "+" and not are_ints(left, right):
            meter.require(meter.size(left) + meter.size(right))
        return meter.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = _METER.get()
        meter.arguments([*args, *kwargs.values()])
        if isinstance(__obj, BuiltinMethodType) and isinstance(__obj.__self__, str):
            require_method(meter, __obj.__name__, __obj.__self__, args)
        return meter.made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            require_format(_METER.get(), value.__self__, [*args, *kwargs.values()])
            return formatted(*args, **kwargs)

        return bounded


class _Namespace(Namespace):
    """As transformers' own, without access to Python's private names."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace may not hold {name!r}")
        super().__setitem__(name, value)


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    takes_context = isinstance(function, FunctionType) and "jinja_pass_arg" in vars(function)

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        meter, given = _METER.get(), args[takes_context:]
        meter.arguments([*given[1:], *kwargs.values()])
        if name not in _WITHOUT_TEXT:
            meter.size(given[0])
        if name == "format":
            require_format(meter, str(given[0]), [*given[1:], *kwargs.values()])
        if name in ("replace", "indent"):
            require_method(meter, name, str(given[0]), [*given[1:], *kwargs.values()])
        return meter.made(function(*args, **kwargs))

    return filtered


def _concat(pieces: Iterable[str]) -> str:
    texts = list(pieces)
    _METER.get().require(sum(map(len, texts)))
    return "".join(texts)


@pass_environment
def _join(environment: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    meter, get = _METER.get(), (lambda each: each) if attribute is None else make_attrgetter(environment, attribute)
    values = [get(each) for each in value]
    meter.size(values)
    texts = [str(item) for item in values]
    meter.require(sum(map(len, texts)) + len(str(d)) * len(texts))
    return str(d).join(texts)


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > 16:
        raise BadSample("the chat template indents JSON by more than 16")
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)
