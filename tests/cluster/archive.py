"""Writes an image as docker-archive, without an engine or a registry, and reads one's identity."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .errors import ClusterError

# The same rootfs gives the same image: its parts carry no time of their own.
_EPOCH: Final = "2026-01-01T00:00:00Z"


def write(
    rootfs: Path,
    output: Path,
    *,
    tag: str,
    command: Sequence[str],
    user: str = "",
    env: Mapping[str, str] | None = None,
) -> None:
    """Write ``rootfs`` as an image of one layer; ``output`` is there whole or not at all."""
    layer = output.with_suffix(".layer")
    owner = ("--numeric-owner", "--sort=name", "--mtime=@0", "--xattrs")
    done = subprocess.run(
        ["tar", *owner, "--create", f"--file={layer}", f"--directory={rootfs}", "."], check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"cannot write {str(layer)!r}: tar ended with {done.returncode}")
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": _EPOCH,
        "config": {
            "Cmd": list(command),
            "User": user,
            "Env": [f"{key}={value}" for key, value in {**variables, **(env or {})}.items()],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": _EPOCH, "created_by": "tests/cluster"}],
    }
    encoded = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    layer_name = f"{digest}.tar"
    manifest = [{"Config": config_name, "RepoTags": [tag], "Layers": [layer_name]}]
    temporary = output.with_suffix(".writing")
    with tarfile.open(temporary, "w") as archive:
        _add(archive, "manifest.json", json.dumps(manifest).encode())
        _add(archive, config_name, encoded)
        archive.add(layer, layer_name)
    layer.unlink()
    temporary.replace(output)


def identity(tar: Path) -> tuple[str, list[str]]:
    """An image's digest (of its config, as ``sha256:...``) and its tags.

    Raises ClusterError where ``tar`` is not one docker-archive.
    """
    try:
        with tarfile.open(tar) as archive:
            member = archive.extractfile("manifest.json")
            manifest = json.load(member) if member else []
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise ClusterError(f"{str(tar)!r} is not a docker-archive: {error}") from error
    if len(manifest) != 1:
        raise ClusterError(f"{str(tar)!r} holds {len(manifest)} images, not one")
    digest = Path(manifest[0]["Config"]).name.removesuffix(".json")
    return f"sha256:{digest}", list(manifest[0]["RepoTags"] or [])


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
