"""What the API server answers when it does not do what was asked. Values only."""

import json


class ClusterError(Exception):
    """The API server did not do what was asked."""


class NotFound(ClusterError):
    """404: there is no such object, or no such kind."""


class AlreadyExists(ClusterError):
    """409 on create: an object of that name is there."""


class Conflict(ClusterError):
    """409 otherwise: the object was changed, or is another than was meant."""


class Gone(ClusterError):
    """410: the resource version is too old; list again."""


class Refused(ClusterError):
    """400, 403, 422 and the like: asking again without a change will not help."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Unavailable(ClusterError):
    """429, 5xx, a timeout, a broken connection: ask again later. A write may have happened."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the server asked to wait."""


def error(status: int, text: str, retry_after: str | None = None) -> ClusterError:
    """The error of an answer with this HTTP status, body and `Retry-After` header."""
    try:
        document = json.loads(text)
        message = document.get("message") or text
        reason = document.get("reason", "")
    except (ValueError, AttributeError):
        message, reason = text[:500], ""
    match status:
        case 404:
            return NotFound(message)
        case 409:
            return AlreadyExists(message) if reason == "AlreadyExists" else Conflict(message)
        case 410:
            return Gone(message)
        case 401 | 408 | 429:
            # 401 too: a service account's token is read again every minute.
            return Unavailable(f"{status}: {message}", retry_after=_seconds(retry_after))
        case _ if status >= 500:
            return Unavailable(f"{status}: {message}", retry_after=_seconds(retry_after))
        case _:
            return Refused(status, message)


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdigit() else None
