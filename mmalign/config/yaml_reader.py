"""Reads a YAML file strictly into plain dicts, with the line of every value.

    data, lines = read_yaml(Path("x.yaml"))      # lines: {("train", "lr"): 7}

Values have YAML 1.2's core types: only true and false are booleans, 1e-4 is a number, `no`, 012, 1_0, 1:30 and dates
stay text. Errors, with the line: duplicate keys, tags, keys that are not text, cycles, more than 16 aliases, two
documents.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from mmalign.errors import UsageError
from mmalign.reading import read_bytes

MAX_BYTES, MAX_ALIASES, MAX_DEPTH = 1 << 20, 16, 50

Lines = dict[tuple[str, ...], int]

_CORE_TYPES = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
)


class _Loader(yaml.SafeLoader):
    """Composes nodes, with YAML 1.2's core types and a limit on aliases; `_Reader` turns the nodes into values."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - instead of PyYAML's table of YAML 1.1 types
    num_aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.num_aliases += 1
            if self.num_aliases > MAX_ALIASES:
                mark = self.peek_event().start_mark
                raise yaml.composer.ComposerError(None, None, f"more than {MAX_ALIASES} aliases", mark)
        return super().compose_node(parent, index)


for _name, _pattern, _first in _CORE_TYPES:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """Return the file's value and the line (from 1) of each key path; raises UsageError with file and line."""
    text = _read_text(path)
    try:
        node = yaml.compose(text, Loader=_Loader)
        reader = _Reader(path)
        return (None if node is None else reader.value(node, ())), reader.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(
            f"{path}{line}: {error.problem or error.context}", hint="The file is not valid YAML."
        ) from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}", hint="The file is not valid YAML.") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply") from None


def _read_text(path: Path) -> str:
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read config file {path}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"config file {path} is larger than {MAX_BYTES} bytes", hint="Is it a data file?") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"config file {path} is not UTF-8 (byte {error.start})") from None


class _Reader:
    """Turns the nodes of one file into values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: Lines = {}
        self._open: list[yaml.Node] = []

    def value(self, node: yaml.Node, where: tuple[str, ...]) -> Any:
        if any(node is parent for parent in self._open):
            raise self._error(node, "a value that contains itself")
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind)
        if kind not in ("map", "seq"):
            raise self._error(node, f"tag {node.tag} is not allowed")
        self._open.append(node)
        if len(self._open) > MAX_DEPTH:
            raise self._error(node, f"nested over {MAX_DEPTH} levels deep")
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self.value(item, (*where, str(index))) for index, item in enumerate(node.value)]
        else:
            value = self._mapping(node, where)
        self._open.pop()
        return value

    def _mapping(self, node: yaml.Node, where: tuple[str, ...]) -> dict[str, Any]:
        value, first_line = {}, dict[str, int]()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise self._error(key_node, "a key that is not text: quote it")
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in value:
                raise self._error(key_node, f"key {key!r} is already set in line {first_line[key]}")
            first_line[key] = self.lines[(*where, key)] = line
            value[key] = self.value(value_node, (*where, key))
        return value

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text = node.value
        if kind == "str":
            return text
        if kind == "null":
            return None
        try:
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, 0)
            if kind == "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan") if text[-1] in "fFnN" else text)
        except (ValueError, KeyError):
            raise self._error(node, f"{text!r} is not a valid {kind}") from None
        raise self._error(node, f"tag {node.tag} is not allowed")

    def _error(self, node: yaml.Node, problem: str) -> UsageError:
        return UsageError(f"{self.path}:{node.start_mark.line + 1}: {problem}")
