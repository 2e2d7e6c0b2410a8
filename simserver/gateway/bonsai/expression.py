"""Arithmetic on a simulator's state, as users write it for rewards and ends of episodes.

Python's notation for numbers, comparisons, ``and``, ``or``, ``not``, ``a if b else c``, fields
(``state.tank.level``), elements (``state.speeds[0]``) and the functions below. It is interpreted
node by node; no Python of the user's is run.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farsim.errors import FarsimError
from farsim.options import nearest
from simserver.gateway.bonsai.schema import Array, Struct, Type

#: What an expression is evaluated with: "state", "previous", "action", "step", "halted".
Scope = Mapping[str, Any]
_Run = Callable[[Scope], Any]


class ExpressionError(FarsimError, ValueError):
    """An expression that can not be read or evaluated; shows where."""


_CONSTANTS = {"pi": math.pi, "inf": math.inf, "true": True, "false": False}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(math, name)
        for name in ("sqrt", "exp", "log", "sin", "cos", "tan", "atan2", "tanh", "hypot")
    },
    "abs": abs,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "sign": lambda x: float((x > 0) - (x < 0)),
    "clip": lambda x, low, high: min(max(x, low), high),
    "isfinite": lambda x: math.isfinite(x),
}
#: These also take one list of numbers, such as an array of the state.
_OVER_LISTS: dict[str, Callable[..., Any]] = {
    "min": lambda *x: min(x),
    "max": lambda *x: max(x),
    "sum": lambda *x: math.fsum(x),
    "mean": lambda *x: math.fsum(x) / len(x),
}
_BINARY: dict[type[ast.operator], Callable[[float, float], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class _Part:
    """A node: how to evaluate it, and its type where that decides what members it has."""

    run: _Run
    type: Type | None = None


class Expression:
    """A function of a scope, read from text.

    Args:
        text: the expression.
        label: what it is for, to begin error messages with: "reward".
        state: what fields ``state`` and ``previous`` have; None to leave them unchecked.
        action: likewise ``action``.

    Raises:
        ExpressionError: it can not be read, or names something that there is not.
    """

    def __init__(
        self, text: str, label: str, state: Struct | None = None, action: Struct | None = None
    ) -> None:
        self._text, self._label = " ".join(text.split()), label
        self._state = state
        self._checked = state is not None
        self._names: dict[str, Type | None] = {
            "state": state,
            "previous": state,
            "action": action,
            "step": None,
            "halted": None,
        }
        try:
            tree = ast.parse(self._text, mode="eval")
        except SyntaxError as error:
            # Python says 0 of what breaks off.
            at = error.offset - 1 if error.offset else len(self._text)
            raise self._error(f"{error.msg}", at) from error
        except (ValueError, RecursionError) as error:
            raise self._error(f"{error}", 0) from error
        self._run = self._part(tree.body).run

    def __call__(self, scope: Scope) -> Any:
        """Its value.

        Raises:
            ExpressionError: there is none: a division by zero, a text where a number should be.
        """
        try:
            return self._run(scope)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ExpressionError(
                f"{self._label}: '{self._text}' has no value here: {type(error).__name__}: {error}",
                self._label,
            ) from error

    def _error(self, message: str, column: int) -> ExpressionError:
        return ExpressionError(
            f"{self._label}: {message} (column {column + 1})\n  {self._text}\n  {' ' * column}^",
            self._label,
        )

    def _part(self, node: ast.expr) -> _Part:
        match node:
            case ast.Constant(value=bool() | int() | float() | str()):
                value = _plain(node.value)
                return _Part(lambda scope: value)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.Attribute(value=owner, attr=name):
                return self._field(node, self._part(owner), name)
            case ast.Subscript(value=owner, slice=index):
                return self._element(node, self._part(owner), index)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(node, name, arguments)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                function = _BINARY[type(op)]
                a, b = self._part(left).run, self._part(right).run
                return _Part(lambda scope: function(_number(a(scope)), _number(b(scope))))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                factor = -1.0 if isinstance(op, ast.USub) else 1.0
                inner = self._part(operand).run
                return _Part(lambda scope: factor * _number(inner(scope)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._part(operand).run
                return _Part(lambda scope: not inner(scope))
            case ast.BoolOp(op=op, values=values):
                runs = [self._part(value).run for value in values]
                every = all if isinstance(op, ast.And) else any
                return _Part(lambda scope: every(run(scope) for run in runs))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._comparison(node, [left, *others], ops)
            case ast.IfExp(test=test, body=body, orelse=other):
                chosen, yes, no = (self._part(part).run for part in (test, body, other))
                return _Part(lambda scope: yes(scope) if chosen(scope) else no(scope))
        raise self._error("this is none of what expressions may have", node.col_offset)

    def _name(self, node: ast.expr, name: str) -> _Part:
        if name in self._names:
            return _Part(lambda scope: _plain(scope[name]), self._names[name])
        if name in _CONSTANTS:
            value = _CONSTANTS[name]
            return _Part(lambda scope: value)
        fields = self._state.fields if self._state else {}
        if self._checked and name not in fields:
            known = [*fields, *self._names, *_CONSTANTS]
            raise self._error(f"no field '{name}' in state{nearest(name, known)}", node.col_offset)
        return _Part(lambda scope: _plain(scope["state"][name]), fields.get(name))

    def _field(self, node: ast.Attribute, owner: _Part, name: str) -> _Part:
        column = (node.end_col_offset or 0) - len(name)
        if isinstance(owner.type, Struct):
            if name not in owner.type.fields:
                hint = nearest(name, owner.type.fields)
                raise self._error(f"no field '{name}' here{hint}", column)
            return _Part(lambda scope: _plain(owner.run(scope)[name]), owner.type.fields[name])
        if self._checked:
            raise self._error("what has this field is no struct", column)
        return _Part(lambda scope: _plain(owner.run(scope)[name]))

    def _element(self, node: ast.expr, owner: _Part, index: ast.expr) -> _Part:
        item = owner.type.item if isinstance(owner.type, Array) else None
        if self._checked and item is None:
            raise self._error("what has this element is no array", index.col_offset)
        position = self._part(index).run
        return _Part(lambda scope: _plain(owner.run(scope)[int(position(scope))]), item)

    def _call(self, node: ast.expr, name: str, arguments: list[ast.expr]) -> _Part:
        runs = [self._part(argument).run for argument in arguments]
        if not runs:
            raise self._error(f"'{name}()' needs something in its parentheses", node.col_offset)
        if name in _OVER_LISTS:
            over = _OVER_LISTS[name]

            def run(scope: Scope) -> Any:
                values = [argument(scope) for argument in runs]
                if len(values) == 1 and isinstance(values[0], list):
                    values = values[0]
                return over(*(_number(value) for value in values))

            return _Part(run)
        if name not in _FUNCTIONS:
            known = nearest(name, [*_FUNCTIONS, *_OVER_LISTS])
            raise self._error(f"no function '{name}'{known}", node.col_offset)
        function = _FUNCTIONS[name]
        return _Part(lambda scope: function(*(_number(argument(scope)) for argument in runs)))

    def _comparison(self, node: ast.expr, parts: list[ast.expr], ops: list[ast.cmpop]) -> _Part:
        runs = [self._part(part).run for part in parts]
        unknown = [op for op in ops if type(op) not in _COMPARE]
        if unknown:
            raise self._error("compare with <, <=, >, >=, == and !=", node.col_offset)
        tests = [_COMPARE[type(op)] for op in ops]

        def run(scope: Scope) -> bool:
            values = [each(scope) for each in runs]
            return all(
                test(left, right)
                for test, left, right in zip(tests, values, values[1:], strict=False)
            )

        return _Part(run)


def _plain(value: Any) -> Any:
    """Whole numbers as floats: theirs can not grow beyond all bounds."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _number(value: Any) -> float:
    if isinstance(value, (bool, int, float)):
        return float(value)
    raise TypeError(f"{value!r:.60} is no number")
