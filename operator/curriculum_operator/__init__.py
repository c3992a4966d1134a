"""The operator: from TrainingCurricula to PyTorchJobs. Pure core, one writer."""
