"""The nodes of the cluster: two that a Spark would be, one that a B200 machine would be, and a
third Spark that is off until a test starts it.

Faked are only these labels and the number of GPUs; see README.md.
"""

from typing import Final

from .node import GPU, Node

_SPARK_LABELS: Final = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-GB10",
    "nvidia.com/gpu.family": "blackwell",
    "nvidia.com/gpu.compute.major": "12",
    "nvidia.com/gpu.compute.minor": "1",
    "nvidia.com/gpu.count": "1",
    "nvidia.com/gpu.machine": "NVIDIA_DGX_Spark",
    # No gpu.memory: a GB10's memory is the machine's, and the driver reports none.
}
_B200_LABELS: Final = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-B200",
    "nvidia.com/gpu.family": "blackwell",
    "nvidia.com/gpu.compute.major": "10",
    "nvidia.com/gpu.compute.minor": "0",
    "nvidia.com/gpu.count": "8",
    "nvidia.com/gpu.memory": "183359",
}

NODES: Final = (
    Node("spark-1", 1, 1, _SPARK_LABELS),
    Node("spark-2", 2, 1, _SPARK_LABELS),
    Node("b200-1", 3, 8, _B200_LABELS, ((GPU, "present", "NoSchedule"),)),
    Node("spark-3", 4, 1, _SPARK_LABELS, spare=True),
)
