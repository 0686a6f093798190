"""Which actions there are, which are positive, and which stay out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from pipelines.init.choose import Choice
from pipelines.init.known import sign_of
from transformations.config import ActionName, Events
from transformations.errors import InputError
from transformations.rules import Sign

Ask = Callable[[str, int], Sign | None]
"""Ask the user for the sign of an action with that many rows; None: it stays out."""
_NAME: TypeAdapter[str] = TypeAdapter(ActionName)
SHOWN = 20


@dataclass(frozen=True)
class ActionsGuess:
    """The actions with their signs, those left out, and the share of rows that a run refuses.

    Attributes:
        signs: Action → its sign; the positive ones first, the most frequent first.
        left_out: Action → why it is not in `signs`, and what to do to take it in.
        rows: Action → its rows.
        max_refused_share: What events.max_refused_share must be; None where its default holds.
    """

    signs: Mapping[str, Choice]
    left_out: Mapping[str, str]
    rows: Mapping[str, int]
    max_refused_share: Choice | None

    def of(self, sign: Sign) -> list[str]:
        """Return the actions of a sign."""
        return [name for name, choice in self.signs.items() if choice.value == sign]


def guess_actions(
    rows: Mapping[str, int], asked: Mapping[str, Sign], ask: Ask | None = None
) -> ActionsGuess:
    """Give each action a sign, by the user's word, by its name, or by asking.

    Args:
        rows: Action → its rows, the most frequent first; '' where it is missing.
        asked: Action → the sign that the user gave.
        ask: Called for an action whose name says nothing; None: it stays out.

    Raises:
        InputError: an action asked for does not occur, or none is positive.
    """
    for name in asked:
        if name not in rows:
            raise InputError(
                f"--{asked[name]}: expected an action of the events, got {name!r}; they hold: "
                f"{_listed(rows)}"
            )
    signs: dict[str, Choice] = {}
    left_out: dict[str, str] = {}
    for name, n_rows in rows.items():
        unusable = _unusable(name, signs)
        if unusable is not None:
            left_out[name] = unusable
            continue
        if name in asked:
            signs[name] = Choice(asked[name], f"--{asked[name]} names it")
        elif (known := sign_of(name)) is not None:
            signs[name] = Choice(known, "its name")
        elif ask is not None and (answer := ask(name, n_rows)) is not None:
            signs[name] = Choice(answer, "your answer")
        else:
            left_out[name] = (
                "its name says neither positive nor negative; to take it in, add it to `actions`"
            )
    ordered = sorted(signs, key=lambda name: signs[name].value != "positive")
    guess = ActionsGuess({name: signs[name] for name in ordered}, left_out, rows, None)
    if not guess.of("positive"):
        raise InputError(
            "--positive: expected at least one action that speaks for an item, got none by its "
            f"name; say which with --positive ACTION (repeatable). The events hold: {_listed(rows)}"
        )
    return ActionsGuess(guess.signs, left_out, rows, _refused(rows, left_out))


def _listed(rows: Mapping[str, int]) -> str:
    names = [name or "(missing)" for name in rows]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _unusable(name: str, signs: Mapping[str, Choice]) -> str | None:
    """Say why a name cannot be an action's, and what to do; None if it can."""
    if not name.strip():
        return "these rows have no action"
    same = [other for other in signs if other.lower() == name.lower()]
    if same:
        return f"it differs from {same[0]} only in case; write both alike in the source"
    try:
        _NAME.validate_python(name)
        if name.lower() == "actions":
            raise ValueError
    except (ValidationError, ValueError):
        return (
            "it becomes part of column names, so it may hold letters, digits and _ only, may not "
            "end in _y nor be `actions`; rename it in the source"
        )
    return None


def _refused(rows: Mapping[str, int], left_out: Mapping[str, str]) -> Choice | None:
    share = sum(rows[name] for name in left_out) / max(1, sum(rows.values()))
    if share <= Events().max_refused_share:
        return None
    # Room for as many refused rows besides as the default allows.
    room = min(1.0, round(share + Events().max_refused_share, 2))
    return Choice(room, f"{share:.0%} of the rows have an action that is left out")
