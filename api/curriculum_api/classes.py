"""The accelerator classes that the chart brings, for plans made without a cluster.

A file of the same name given with `-f` goes before these. A test holds them against the chart.
"""

from typing import Any

CLASSES: dict[str, dict[str, Any]] = {
    "gb10-sm121": {
        "match": [
            {"computeCapability": "12.1"},
            {"product": "NVIDIA-GB10"},
            {"labels": {"nvidia.com/gpu.machine": "NVIDIA_DGX_Spark"}},
        ],
        "cpuArchitecture": "arm64",
        "gpusPerNode": 1,
        "memoryGiB": 119,
        "unifiedMemory": True,
        "trains": ["FP32", "BF16", "FP8"],
        "serves": ["FP32", "BF16", "FP8", "NVFP4"],
        "sharedMemoryGiB": 8,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "fabric": {"profile": "gb10-switch", "values": {}},
        "performance": {
            "matmul": [
                {
                    "precision": "FP32",
                    "peakTFLOPS": "31",
                    "source": "NVIDIA DGX Spark, 6144 CUDA cores",
                },
                {
                    "precision": "BF16",
                    "peakTFLOPS": "125",
                    "measuredTFLOPS": "91",
                    "source": (
                        "peak: a quarter of half of 1 PFLOP of sparse FP4 (NVIDIA); measured 91"
                        " to 92: huggingface/kernels PR 283"
                    ),
                },
                {
                    "precision": "FP8",
                    "peakTFLOPS": "250",
                    "measuredTFLOPS": "188",
                    "source": (
                        "peak: half of half of 1 PFLOP of sparse FP4 (NVIDIA); measured: NVIDIA"
                        " developer forum 359960"
                    ),
                },
                {
                    "precision": "NVFP4",
                    "peakTFLOPS": "500",
                    "measuredTFLOPS": "356",
                    "source": (
                        "peak: half of 1 PFLOP of sparse FP4 (NVIDIA); measured: NVIDIA developer"
                        " forum 359960"
                    ),
                },
            ],
            "memory": {
                "peakGBps": "273",
                "measuredGBps": "218",
                "source": "peak: NVIDIA DGX Spark; measured: huggingface/kernels PR 283",
            },
            "fabric": {
                "peakGBps": "25",
                "measuredGBps": "20.9",
                "source": (
                    "peak: 200 Gb/s over both twins of one port; measured: NCCL all_gather 18.9"
                    " to 23.7, NVIDIA/dgx-spark-playbooks issues 25 and 102"
                ),
            },
            "storage": {"peakGBps": "1.25", "source": "10GbE RJ45; not measured"},
        },
        "power": {
            "idleWatts": 35,
            "loadWatts": 140,
            "source": (
                "SoC TDP 140 W, supply 240 W (NVIDIA); 25 to 37 W idle, 80 to 100 W under load"
                " were observed"
            ),
        },
        "ownership": {"priceUSD": "4000", "months": 36, "usdPerKWh": "0.12"},
        "reliability": {
            "mttfHours": 8000,
            "source": (
                "no figure is public for Sparks; Meta's research clusters failed once in 8,090"
                " GPU hours (HPCA 2025)"
            ),
        },
        "preflight": {},
    },
    "b200-sm100": {
        "match": [
            {"computeCapability": "10.0"},
            {"product": "NVIDIA-B200"},
            {"labels": {"cloud.google.com/gke-accelerator": "nvidia-b200"}},
            {"labels": {"eks.amazonaws.com/instance-gpu-name": "b200"}},
            {"labels": {"karpenter.k8s.aws/instance-gpu-name": "b200"}},
            {"labels": {"node.kubernetes.io/instance-type": "p6-b200.48xlarge"}},
            {"labels": {"gpu.nvidia.com/class": "B200"}},
            {"labels": {"node.coreweave.cloud/type": "b200-8x"}},
        ],
        "cpuArchitecture": "amd64",
        "gpusPerNode": 8,
        "memoryGiB": 178,
        "trains": ["FP32", "BF16", "FP8", "MXFP8", "NVFP4"],
        "serves": ["FP32", "BF16", "FP8", "MXFP8", "NVFP4"],
        "sharedMemoryGiB": 64,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "fabric": {"profile": "infiniband", "values": {}},
        "performance": {
            "matmul": [
                {"precision": "FP32", "peakTFLOPS": "75", "source": "NVIDIA HGX B200 data sheet"},
                {
                    "precision": "BF16",
                    "peakTFLOPS": "2250",
                    "measuredTFLOPS": "1745",
                    "source": (
                        "peak: NVIDIA HGX B200 data sheet, dense; measured:"
                        " stas00/ml-engineering, MAMF"
                    ),
                },
                {
                    "precision": "FP8",
                    "peakTFLOPS": "4500",
                    "source": "NVIDIA HGX B200 data sheet, dense; not measured",
                },
                {
                    "precision": "MXFP8",
                    "peakTFLOPS": "4500",
                    "source": "NVIDIA HGX B200 data sheet, dense; not measured",
                },
                {
                    "precision": "NVFP4",
                    "peakTFLOPS": "9000",
                    "source": "NVIDIA HGX B200 data sheet, dense; not measured",
                },
            ],
            "memory": {"peakGBps": "8000", "source": "NVIDIA HGX B200 data sheet; not measured"},
            "link": {
                "peakGBps": "900",
                "source": "NVLink 5, 1.8 TB/s both ways (NVIDIA HGX B200 data sheet); not measured",
            },
            "fabric": {
                "peakGBps": "50",
                "source": "one 400 Gb/s port an accelerator; not measured",
            },
            "host": {"peakGBps": "64", "source": "PCIe 5.0 x16; not measured"},
            "storage": {
                "peakGBps": "2",
                "source": "an assumption for a rented shared file system; measure it",
            },
        },
        "power": {
            "idleWatts": 2000,
            "loadWatts": 12000,
            "source": "8 x 1000 W TDP and their host; DGX B200 draws at most 14.3 kW (NVIDIA)",
        },
        "reliability": {
            "mttfHours": 2500,
            "source": (
                "between 1,010 hours (Meta's research clusters, HPCA 2025) and 6,300 (Llama 3"
                " 405B) for eight H100"
            ),
        },
        "preflight": {},
    },
}
