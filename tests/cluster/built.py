"""Images built from a Dockerfile on their way to the nodes: as archives, and into a containerd."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from . import archive, buildah, paths
from .shell import run


def saved(digest: str, *, tag: str) -> Path:
    """The archive of a built image; written once, and the tag's older ones go."""
    folder = paths.images() / "built"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", tag)
    output = folder / f"{name}@{digest.removeprefix('sha256:')[:12]}.tar"
    if not output.exists():
        for older in folder.glob(f"{name}@*"):
            older.unlink()
        buildah.save(digest, tag=tag, output=output)
    return output


def load(node: str, tar: Path) -> bool:
    """Import an archive into a node's containerd; False where it has that very image already."""
    digest, tags = archive.identity(tar)
    loaded = _loaded(node)
    if tags and all(loaded.get(tag) == digest for tag in tags):
        return False
    socket = paths.containerd_socket(node)
    run(
        *("ctr", f"--address={socket}", "--namespace=k8s.io", "images", "import"),
        *("--snapshotter=overlayfs", tar),
    )
    note(node, [tar])
    return True


def note(node: str, tars: Sequence[Path]) -> None:
    """Remember that a node has ``tars``."""
    loaded = _loaded(node)
    for tar in tars:
        digest, tags = archive.identity(tar)
        loaded |= dict.fromkeys(tags, digest)
    _file(node).write_text(json.dumps(loaded))


def _loaded(node: str) -> dict[str, str]:
    """The digest of every image that a node was given, by tag."""
    if not _file(node).exists():
        return {}
    loaded: dict[str, str] = json.loads(_file(node).read_text())
    return loaded


def _file(node: str) -> Path:
    return paths.node_run(node) / "loaded.json"
