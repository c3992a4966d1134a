"""Makes the images the cluster brings itself, once per version.

There is no registry: an image is a docker-archive in the cache.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from . import archive, buildah, paths, versions
from .gobuild import binary
from .shell import run

PAUSE: Final = "localhost/pause:1"
BASE: Final = "localhost/base:1"
BASE_CXX: Final = "localhost/base-cxx:1"
TRAINING_OPERATOR: Final = f"localhost/training-operator:v{versions.TRAINING_OPERATOR}"

_PACKAGES: Final = ("ca-certificates", "python3.11")
_CA_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_TRIM: Final = (
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/lib/apt/lists/*_*",
    "var/log/*.log",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*",
)
# training-operator's workers run `nslookup MASTER` until it succeeds. Other nslookups fail on a
# search domain that does not answer; this one asks as a program in the pod would.
_NSLOOKUP: Final = """\
#!/bin/sh
for name; do :; done
exec getent hosts "$name"
"""
_CXX: Final = f"""\
FROM {BASE}
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends g++ libpython3.11-dev \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
"""


def build_all(say: Callable[[str], None]) -> None:
    """Make what is missing: the base, the base with a compiler, pause, training-operator."""
    paths.images().mkdir(parents=True, exist_ok=True)
    for what, tar, make in (
        (f"base image ({versions.DEBIAN}, about 90 s)", base(), _make_base),
        ("pause image", pause(), _make_pause),
        ("training-operator image", training_operator(), _make_training_operator),
        ("base image with a compiler (about 60 s)", base_cxx(), _make_base_cxx),
    ):
        if not tar.exists():
            say(f"making {what}")
            make(tar)


def own() -> list[Path]:
    """The images every node has from the start."""
    return [pause(), base(), base_cxx(), training_operator()]


def base() -> Path:
    recipe = repr((versions.DEBIAN, _PACKAGES, _TRIM, _NSLOOKUP)).encode()
    return _tar("base", recipe + _CA_BUNDLE.read_bytes())


def base_cxx() -> Path:
    return _tar("base-cxx", base().name.encode() + _CXX.encode())


def pause() -> Path:
    return _tar("pause", binary("pause").name.encode())


def training_operator() -> Path:
    return _tar("training-operator", binary("training-operator").name.encode())


def _make_base(output: Path) -> None:
    with tempfile.TemporaryDirectory(dir=paths.images(), prefix=".building-") as folder:
        rootfs = Path(folder) / "rootfs"
        wanted = f"--include={','.join(_PACKAGES)}"
        # In a mount namespace of its own: debootstrap mounts /proc and may be interrupted.
        run(
            *("unshare", "--mount", "--propagation=private", "debootstrap", "--variant=minbase"),
            *(wanted, versions.DEBIAN, rootfs, versions.DEBIAN_MIRROR),
        )
        for pattern in _TRIM:
            for path in rootfs.glob(pattern):
                _remove(path)
        # Behind a company's proxy, a build in the image must trust what this machine trusts.
        shutil.copyfile(_CA_BUNDLE, rootfs / _CA_BUNDLE.relative_to("/"))
        _script(rootfs / "usr/bin/nslookup", _NSLOOKUP)
        (rootfs / "etc/resolv.conf").write_text("")
        (rootfs / "etc/hostname").unlink(missing_ok=True)
        (rootfs / "usr/local/bin/python3").symlink_to("/usr/bin/python3.11")
        archive.write(rootfs, output, tag=BASE, command=["/bin/sh"])


def _make_base_cxx(output: Path) -> None:
    with tempfile.TemporaryDirectory(dir=paths.images(), prefix=".building-") as folder:
        dockerfile = Path(folder) / "Dockerfile"
        dockerfile.write_text(_CXX)
        buildah.load_base(base(), BASE)
        built = buildah.build(dockerfile, tag=BASE_CXX, context=Path(folder))
        buildah.save(built, tag=BASE_CXX, output=output)


def _make_pause(output: Path) -> None:
    _make_static(output, binary("pause"), "pause", tag=PAUSE)


def _make_training_operator(output: Path) -> None:
    _make_static(output, binary("training-operator"), "manager", tag=TRAINING_OPERATOR)


def _make_static(output: Path, program: Path, name: str, *, tag: str) -> None:
    with tempfile.TemporaryDirectory(dir=paths.images(), prefix=".building-") as folder:
        rootfs = Path(folder) / "rootfs"
        (rootfs / "tmp").mkdir(parents=True)
        (rootfs / "tmp").chmod(0o1777)
        rootfs.chmod(0o755)
        shutil.copy(program, rootfs / name)
        (rootfs / name).chmod(0o755)
        archive.write(rootfs, output, tag=tag, command=[f"/{name}"], user="65532:65532")


def _tar(name: str, recipe: bytes) -> Path:
    return _named(name, recipe, ".tar")


def _named(name: str, recipe: bytes, suffix: str) -> Path:
    return paths.images() / f"{name}-{hashlib.sha256(recipe).hexdigest()[:8]}{suffix}"


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
