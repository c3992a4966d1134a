"""Folders of this machine as volumes that every node can mount."""

from pathlib import Path
from typing import Any


def pair(
    name: str, namespace: str, host_path: Path, *, read_only: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A PersistentVolume of ``host_path`` and the claim ``name`` that is bound to it alone."""
    mode = "ReadOnlyMany" if read_only else "ReadWriteMany"
    volume = f"{namespace}-{name}"
    size = {"storage": "1Ti"}  # nobody measures a hostPath
    return (
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": size,
                "accessModes": [mode],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": namespace, "name": name},
                "hostPath": {"path": str(host_path.resolve()), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "accessModes": [mode],
                "storageClassName": "",
                "volumeName": volume,
                "resources": {"requests": size},
            },
        },
    )
