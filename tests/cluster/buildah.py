"""Builds images from a Dockerfile in a storage of its own; touches nobody else's images."""

import json
from collections.abc import Mapping
from pathlib import Path

from . import archive, paths
from .shell import run


def load_base(tar: Path, tag: str) -> None:
    """Make a docker-archive known as ``tag``, once per content."""
    digest, _ = archive.identity(tar)
    if _image_id(tag) != digest:
        _buildah("pull", "--quiet", f"docker-archive:{tar}")


def build(
    dockerfile: Path,
    *,
    tag: str,
    context: Path,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build ``target`` of ``dockerfile``; unchanged steps come from earlier builds.

    Gives the image's digest, as ``sha256:...``.
    """
    options = [f"--build-arg={key}={value}" for key, value in (build_args or {}).items()]
    if target:
        options.append(f"--target={target}")
    _buildah(
        *("build", "--isolation=chroot", "--layers", "--pull=never", f"--tag={tag}"),
        *(*options, f"--file={dockerfile}", str(context)),
    )
    return _image_id(tag)


def save(digest: str, *, tag: str, output: Path) -> None:
    """Write a built image as docker-archive, whole or not at all."""
    temporary = output.with_suffix(".writing")
    temporary.unlink(missing_ok=True)
    image = digest.removeprefix("sha256:")
    _buildah("push", "--quiet", image, f"docker-archive:{temporary}:{tag}")
    temporary.replace(output)


def _image_id(tag: str) -> str:
    """The digest of the image called ``tag``, or nothing."""
    answer = _buildah("inspect", "--type=image", tag, check=False)
    if not answer:
        return ""
    return "sha256:" + str(json.loads(answer)["FromImageID"]).removeprefix("sha256:")


def _buildah(*words: str, check: bool = True) -> str:
    storage = paths.cache() / "buildah"
    storage.mkdir(parents=True, exist_ok=True)
    policy = storage / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    arguments = list(words)
    if words[0] in ("build", "pull", "push"):
        arguments.insert(1, f"--signature-policy={policy}")
    # Its mounts end with it, also when it is killed.
    return run(
        *("unshare", "--mount", "--propagation=private"),
        *("buildah", f"--root={storage}/storage", f"--runroot={storage}/run"),
        *("--storage-driver=overlay", *arguments),
        check=check,
    ).stdout
