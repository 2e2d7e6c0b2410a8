"""All checks, in the order in which they are carried out."""

from farsim.check.suite import (
    acting,
    actions,
    autoreset,
    batches,
    describing,
    extras,
    opening,
    resetting,
    resuming,
    sequence,
    serving,
)
from farsim.check.verdicts import Check

CHECKS: tuple[Check, ...] = (
    *serving.CHAPTER,
    *describing.CHAPTER,
    *opening.CHAPTER,
    *resetting.CHAPTER,
    *batches.CHAPTER,
    *actions.CHAPTER,
    *acting.CHAPTER,
    *autoreset.CHAPTER,
    *sequence.CHAPTER,
    *resuming.CHAPTER,
    *extras.CHAPTER,
)
