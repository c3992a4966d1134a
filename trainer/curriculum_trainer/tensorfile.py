"""Writing a safetensors file tensor by tensor, so that a model never has to fit twice.

`safetensors` itself wants all tensors at once. The format: 8 bytes of header length, a JSON
header with each tensor's type, shape and offsets, then the tensors' bytes. Hashing and writing
each take about as long as the other, and both let other threads run: they run side by side.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from curriculum_trainer.manifest import File


class TensorFile:
    """One FP32 safetensors file in the making; tensors come in the order of `shapes`."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path = path
        self._waiting = list(shapes.items())
        self._hash = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._bytes = 0
        self._file = path.open("wb")
        header = _header(shapes)
        self._put(len(header).to_bytes(8, "little") + header)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor."""
        expected, shape = self._waiting.pop(0)
        assert (name, tuple(tensor.shape)) == (expected, shape)
        flat = tensor.detach().to("cpu", torch.float32).contiguous().flatten()
        self._put(memoryview(flat.view(torch.uint8).numpy()))

    def finish(self) -> File:
        """Flush to the disk; the digest is of what was meant, not of what the disk holds."""
        assert not self._waiting
        self._file.flush()
        os.fsync(self._file.fileno())
        return File(bytes=self._bytes, sha256=self._hash.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hasher.shutdown()
        try:
            self._file.close()
        except OSError:
            # closing flushes once more what could not be written before
            if error is None:
                raise
        if isinstance(error, OSError) and error.filename is None:
            # a failed write does not say of which file
            error.filename = str(self.path)

    def _put(self, data: Any) -> None:
        hashed = self._hasher.submit(self._hash.update, data)
        self._file.write(data)
        hashed.result()
        self._bytes += len(data)


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)
