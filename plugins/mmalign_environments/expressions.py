"""Computes arithmetic that a policy wrote, exactly and safely.

    written(evaluate("12 * (3 + 1) / 5"))      # "9.6"

Numbers, + - * / and parentheses are parsed by `ast`; no other Python is run. The length of an expression and the size
of every intermediate number are bounded, so none takes longer than about a millisecond.
"""

import ast
import re
from fractions import Fraction

MAX_LENGTH = 100  # characters
MAX_SIZE = 10**30  # of a numerator or a denominator
_CHARACTERS = re.compile(r"[0-9.+\-*/() ]*")
_DECIMALS = 6


class BadExpression(ValueError):
    """An expression that cannot be computed; the message tells the policy why."""


def evaluate(expression: str) -> Fraction:
    """The expression's value; raises BadExpression."""
    if len(expression) > MAX_LENGTH:
        raise BadExpression(f"longer than {MAX_LENGTH} characters")
    if not _CHARACTERS.fullmatch(expression):
        raise BadExpression("only numbers, + - * / and parentheses")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError) as error:  # the parser raises MemoryError for deep nesting
        raise BadExpression("not an expression") from error
    return _value(tree.body)


def written(value: Fraction) -> str:
    """A whole number, or a decimal with at most six digits behind the point, never with an exponent."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = round(abs(value) * 10**_DECIMALS)
    whole, rest = divmod(scaled, 10**_DECIMALS)
    digits = f"{whole}.{rest:0{_DECIMALS}d}".rstrip("0").rstrip(".")
    return f"-{digits}" if value < 0 and scaled else digits


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        # repr: 0.1 is exactly a tenth here, not the nearest binary number
        return _bounded(Fraction(repr(node.value)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Div) and not right:
            raise BadExpression("division by zero")
        results = {ast.Add: left.__add__, ast.Sub: left.__sub__, ast.Mult: left.__mul__, ast.Div: left.__truediv__}
        return _bounded(results[type(node.op)](right))
    raise BadExpression("only numbers, + - * / and parentheses")


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator) > MAX_SIZE:
        raise BadExpression("a number is too large")
    return value
