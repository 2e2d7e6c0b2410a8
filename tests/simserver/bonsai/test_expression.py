import math

import pytest

from simserver.gateway.bonsai import schema
from simserver.gateway.bonsai.expression import Expression, ExpressionError
from tests.simserver.bonsai.running import number, struct

STATE = schema.read(
    struct(
        number("value", start=-100, stop=200, step=1),
        {"name": "tank", "type": struct(number("level"))},
        {"name": "speeds", "type": {"category": "Array", "length": 3, "type": number("")["type"]}},
        {"name": "colour", "type": {"category": "String", "values": ["red", "green"]}},
    ),
    "state",
)
ACTION = schema.read(struct(number("valve", start=0, stop=1)), "action")
SCOPE = {
    "state": {"value": 53, "tank": {"level": 2.5}, "speeds": [3, 4, -5], "colour": "red"},
    "previous": {"value": 50, "tank": {"level": 2.0}, "speeds": [0, 0, 0], "colour": "green"},
    "action": {"valve": 0.25},
    "step": 4,
    "halted": False,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-abs(state.value - 50)", -3),
        ("-abs(value - 50)", -3),
        ("state.tank.level - previous.tank.level", 0.5),
        ("speeds[0] * 2 + state.speeds[-1]", 1),
        ("hypot(speeds[0], speeds[1]) ** 2", 25),
        ("max(speeds) + min(1, 2) + sum(speeds) + mean(speeds)", 4 + 1 + 2 + 2 / 3),
        ("1 if colour == 'red' and not halted else -1", 1),
        ("0 < action.valve <= 0.25", True),
        ("value > 100 or step >= 4", True),
        ("clip(value, 0, 10) // 3 % 2", 1),
        ("exp(-tank.level) + pi", math.exp(-2.5) + math.pi),
        ("sign(-3) + floor(2.5)", 1),
        ("value > 60 and speeds[7] > 0", False),
    ],
)
def test_values(text, value):
    assert Expression(text, "reward", STATE, ACTION)(SCOPE) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("state.value +", "invalid syntax", 14),
        ("-abs(state.valu - 50)", "no field 'valu' here; did you mean 'value'?", 12),
        ("1 + valeu", "no field 'valeu' in state; did you mean 'value'?", 5),
        ("state.value.level", "what has this field is no struct", 13),
        ("tank[0]", "what has this element is no array", 6),
        ("abs(value", "'(' was never closed", 4),
        ("2 * sqr(value)", "no function 'sqr'; did you mean 'sqrt'?", 5),
        ("__import__('os').system('true')", "none of what expressions may have", 1),
        ("value.__class__", "what has this field is no struct", 7),
        ("(lambda: 1)()", "none of what expressions may have", 1),
        ("[x for x in speeds]", "none of what expressions may have", 1),
        ("value in speeds", "compare with", 1),
        ("action.valv", "no field 'valv' here; did you mean 'valve'?", 8),
    ],
)
def test_errors_say_what_and_where(text, message, column):
    with pytest.raises(ExpressionError) as error:
        Expression(text, "reward", STATE, ACTION)
    first, shown, caret = str(error.value).splitlines()
    assert message in first
    assert f"(column {column})" in first
    assert shown.strip() == text
    assert caret.index("^") == column + 1


@pytest.mark.parametrize("text", ["1 / (value - 53)", "9 ** 9 ** 9", "colour + 1", "speeds[3]"])
def test_what_has_no_value_is_an_error_of_its_own(text):
    expression = Expression(text, "terminal", STATE, ACTION)
    with pytest.raises(ExpressionError, match=r"terminal: .* has no value here"):
        expression(SCOPE)
