"""Progress and heartbeat by Kubeflow Trainer's protocol: a POST per finished step or new stage.

Never waits, never raises, and never beats by itself: a gang that hangs must look hung. The peer
of this protocol on the other side of the wire is the operator, or Kubeflow Trainer.
"""

import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curriculum_api.run import SERVER_CA_ENV, SERVER_TOKEN_ENV, SERVER_URL_ENV

INTERVAL_SECONDS = 2.0
"""At most one POST per this time, but for the last one."""

TIMEOUT_SECONDS = 5.0
ATTACHED_TRIES = 3


class Progress:
    """Sends the newest status from a thread of its own; does nothing where nobody listens."""

    def __init__(self, environment: Mapping[str, str], *, leads: bool) -> None:
        self._environment = environment
        self._url = environment.get(SERVER_URL_ENV) if leads else None
        self._newest: dict[str, Any] | None = None
        self._attached: dict[str, tuple[Mapping[str, Any], int]] = {}
        """What goes along once, with the first report that is heard, and how often it may try."""

        self._changed = threading.Condition()
        self._closed = False
        self._hurry = False
        self._sending = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        if self._url:
            self._thread.start()

    def tell(
        self, *, percent: float, remaining_seconds: float | None, metrics: Mapping[str, object]
    ) -> None:
        """Something was done just now: a step, or a stage before or after the steps."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        status: dict[str, Any] = {
            "progressPercentage": max(0, min(100, int(percent))),
            "metrics": [{"name": name, "value": str(value)} for name, value in metrics.items()],
            "lastUpdatedTime": now,
        }
        if remaining_seconds is not None:
            status["estimatedRemainingSeconds"] = max(0, int(remaining_seconds))
        with self._changed:
            self._newest = status
            self._changed.notify()

    def attach(self, key: str, document: Mapping[str, Any]) -> None:
        """Have a document go along with the next reports, until one was heard, or a few were not.

        A peer that refuses the document must still hear what comes after it.
        """
        with self._changed:
            self._attached[key] = (document, ATTACHED_TRIES)

    def flush(self) -> None:
        """Send what was told last, for at most one timeout."""
        with self._changed:
            self._hurry = True
            self._changed.notify()
            self._changed.wait_for(
                lambda: self._newest is None and not self._sending,
                timeout=TIMEOUT_SECONDS if self._thread.is_alive() else 0.0,
            )
            self._hurry = False

    def close(self) -> None:
        """Send what is left, for at most one timeout."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_SECONDS + 1)

    def _run(self) -> None:
        sent_at = -INTERVAL_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._closed)
                # gather what comes within the interval; only an end cuts it short
                rest = sent_at + INTERVAL_SECONDS - time.monotonic()
                self._changed.wait_for(lambda: self._closed or self._hurry, timeout=max(0.0, rest))
                status, self._newest = self._newest, None
                attached, closed = dict(self._attached), self._closed
                self._sending = status is not None
            if status is not None:
                along = {key: document for key, (document, _) in attached.items()}
                heard = self._send({"trainerStatus": status, **along})
                sent_at = time.monotonic()
                with self._changed:
                    self._sending = False
                    for key, (document, tries) in attached.items():
                        if self._attached.get(key) == (document, tries):
                            self._attached[key] = (document, 0 if heard else tries - 1)
                    self._attached = {k: left for k, left in self._attached.items() if left[1]}
                    self._changed.notify_all()
            if closed:
                return

    def _send(self, body: Mapping[str, Any]) -> bool:
        try:
            request = urllib.request.Request(
                self._url or "",
                data=json.dumps(body).encode(),
                headers=self._headers(),
                method="POST",
            )
            with urllib.request.urlopen(
                request, timeout=TIMEOUT_SECONDS, context=self._tls()
            ) as reply:
                reply.read()
        except Exception:
            # whatever it is, training goes on
            return False
        return True

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        token = self._token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _token(self) -> str | None:
        """Read anew each time: a projected token is rotated in place."""
        value = self._environment.get(SERVER_TOKEN_ENV)
        if not value:
            return None
        if value.startswith("/") or Path(value).exists():
            return Path(value).read_text().strip()
        return value

    def _tls(self) -> ssl.SSLContext | None:
        authority = self._environment.get(SERVER_CA_ENV)
        if not authority or not (self._url or "").startswith("https"):
            return None
        return ssl.create_default_context(cafile=authority)
