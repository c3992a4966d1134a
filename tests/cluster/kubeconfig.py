"""Writes kubeconfig files, the certificates inside; must not know who they are for."""

import base64
import json
from pathlib import Path

from .certificates import Pair

CONTEXT = "curriculum-cluster"


def write(path: Path, *, server: str, authority: Pair, user: Pair) -> None:
    """Write a kubeconfig with one cluster and one user, readable by its owner alone."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": _base64(authority.certificate_pem),
                },
            }
        ],
        "users": [
            {
                "name": CONTEXT,
                "user": {
                    "client-certificate-data": _base64(user.certificate_pem),
                    "client-key-data": _base64(user.key_pem),
                },
            }
        ],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
