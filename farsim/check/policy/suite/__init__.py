"""All checks of a server of policies, in the order in which they are carried out."""

from farsim.check.policy.suite import acting, describing, live, modes, serving, sessions
from farsim.check.verdicts import Check

CHECKS: tuple[Check, ...] = (
    *serving.CHAPTER,
    *describing.CHAPTER,
    *acting.CHAPTER,
    *sessions.CHAPTER,
    *live.CHAPTER,
    *modes.CHAPTER,
)
