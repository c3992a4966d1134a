"""Images unpacked once for all nodes and all starts.

A golden root is that of a containerd which imported some images and was ended. A node starts
from a hard-linked copy of it, which takes no time and no space. Must not touch a live node.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from . import archive, images, paths
from .debian import CNI_PLUGINS
from .errors import ClusterError
from .shell import run


def plain(say: Callable[[str], None]) -> Path:
    """The root with the cluster's own images; made when it is not there."""
    version = run("containerd", "--version").stdout
    root = _named("plain", "".join([*(tar.name for tar in images.own()), version]))
    if not root.exists():
        say("unpacking the nodes' images")
        _make(root, images.own(), start=None)
    return root


def with_images(tars: Sequence[Path], say: Callable[[str], None]) -> Path:
    """The plain root and ``tars``; the last one made is kept, for the next start."""
    start = plain(say)
    if not tars:
        return start
    recipe = "".join([start.name, *("".join(archive.identity(tar)[1]) for tar in tars)])
    recipe += "".join(archive.identity(tar)[0] for tar in tars)
    root = _named("with", recipe)
    if not root.exists():
        say(f"unpacking {', '.join(tar.name for tar in tars)}")
        _make(root, tars, start=start)
    return root


def copy(root: Path, target: Path) -> None:
    """Give a containerd the images of a golden root.

    Layers and blobs are hard links, since containerd never writes to them again; its databases
    are copies.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "--archive", "--link", root, target)
    for database in target.glob("io.containerd.*/*.db"):
        content = database.read_bytes()
        database.unlink()
        database.write_bytes(content)


def containerd_config(*, root: Path, address: Path, cni: Path) -> str:
    """A containerd of its own; JSON's strings are TOML's."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = {json.dumps(str(root))}
state = "/run/containerd"
[grpc]
address = {json.dumps(str(address))}
[plugins."io.containerd.internal.v1.opt"]
path = "/run/containerd-opt"
[{cri}]
sandbox_image = "{images.PAUSE}"
# Without CAP_SYS_RESOURCE a score below one's own is refused and no sandbox would start.
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = {json.dumps(str(cni))}
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def _make(output: Path, tars: Sequence[Path], *, start: Path | None) -> None:
    """Import ``tars`` with a containerd that lives for this moment only."""
    kind = output.name.split("-")[1]
    folder = Path(tempfile.mkdtemp(dir=paths.images(), prefix=".building-"))
    config, log = folder / "containerd.toml", folder / "containerd.log"
    address = Path("/run/containerd.sock")
    config.write_text(
        containerd_config(root=folder / "root", address=address, cni=folder / "no-cni")
    )
    try:
        if start:
            copy(start, folder / "root")
        run(
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"),
            *("-c", _IMPORT, "import", str(config), str(address), str(log)),
            *tars,
        )
        for stale in paths.images().glob(f"golden-{kind}-*"):
            shutil.rmtree(stale)
        (folder / "root").replace(output)
    except ClusterError as error:
        tail = log.read_text().splitlines()[-1:] if log.exists() else []
        raise ClusterError(f"cannot unpack the images: {error} {''.join(tail)}") from error
    finally:
        shutil.rmtree(folder)


_IMPORT: Final = r"""
set -e
config=$1; socket=$2; log=$3; shift 3
mount -t tmpfs tmpfs /run
containerd --config "$config" > "$log" 2>&1 &
for _ in $(seq 300); do ctr -a "$socket" version >/dev/null 2>&1 && break; sleep 0.1; done
for tar; do ctr -a "$socket" -n k8s.io images import --snapshotter overlayfs "$tar"; done
kill %1
wait %1 || true
"""


def _named(kind: str, recipe: str) -> Path:
    key = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    return paths.images() / f"golden-{kind}-{key}"
