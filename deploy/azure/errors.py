"""What Azure refuses, as errors that say what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from farsim.errors import FarsimError


class AzureError(FarsimError, RuntimeError):
    """Azure did not do what it was asked to."""


class NotSignedIn(AzureError, PermissionError):
    """Nobody is signed in, or the token is not accepted."""


class NotAllowed(AzureError, PermissionError):
    """Whoever is signed in may not do this."""


class NotThere(AzureError, LookupError):
    """A resource that does not exist."""


class Busy(AzureError):
    """Something else is being done to the resource, or too much is asked at once."""


class QuotaExceeded(AzureError):
    """The subscription may not have so much."""


class Unreachable(AzureError, ConnectionError):
    """Azure's endpoint does not answer."""


_QUOTA_WORDS = ("quota", "limitreached", "notavailableforsubscription", "capacity")


@contextmanager
def explained(doing: str, subject: str = "") -> Iterator[None]:
    """Gives what Azure's SDK raises in the block as an ``AzureError``.

    Args:
        doing: what is being done, to begin the message with: "creating network 'farsim'".
        subject: what it is about.
    """
    try:
        yield
    except ClientAuthenticationError as error:
        raise NotSignedIn(
            f"{doing}: Azure does not accept who is asking ({_said(error)}): sign in with "
            "'az login', or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
            subject,
        ) from error
    except HttpResponseError as error:
        raise _explain(error, doing, subject) from error
    except (ServiceRequestError, ServiceResponseError) as error:
        raise Unreachable(
            f"{doing}: Azure does not answer ({error.message}): is there a way to it from here, "
            "a proxy perhaps?",
            subject,
        ) from error


def _explain(error: HttpResponseError, doing: str, subject: str) -> AzureError:
    said, code, status = _said(error), _code(error), error.status_code
    message = f"{doing}: {said}"
    if any(word in code.lower() for word in _QUOTA_WORDS):
        return QuotaExceeded(
            f"{message}: ask for less (fewer replicas or nodes, a smaller size), choose another "
            "location, or request more under 'Quotas' in Azure's portal",
            subject,
        )
    if status == 403:
        return NotAllowed(
            f"{message}: whoever is signed in needs the role Contributor on the resource group",
            subject,
        )
    if status == 404:
        return NotThere(
            f"{message}: check subscription, resource group and workspace, which are not made here",
            subject,
        )
    if status == 409:
        return Busy(
            f"{message}: something else is being done to it, or its name belongs to another; "
            "look with 'list', and run the same command again when it has finished",
            subject,
        )
    if status == 429:
        return Busy(
            f"{message}: too many requests; it was tried again as often as Azure asked for, so "
            "wait some minutes and run the same command again, which goes on where it stopped",
            subject,
        )
    if status is not None and status >= 500:
        return AzureError(
            f"{message}: this is Azure's fault; run the same command again, which goes on where it "
            "stopped, or look at status.azure.com",
            subject,
        )
    return AzureError(message, subject)


def _code(error: HttpResponseError) -> str:
    return str(getattr(error.error, "code", "") or "")


def _said(error: HttpResponseError) -> str:
    """Azure's own sentence, with the code that its documentation lists."""
    detail = error.error
    if detail is None or not getattr(detail, "message", None):
        return (error.message or str(error)).splitlines()[0].rstrip(".")
    innermost = detail
    while getattr(innermost, "details", None):
        innermost = innermost.details[0]
    sentence = str(innermost.message or detail.message).splitlines()[0].rstrip(".")
    code = innermost.code or detail.code
    return f"{sentence} ({code})" if code else sentence
