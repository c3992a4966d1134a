"""Version v1alpha1 of the group curriculum.dev: what users write, what the operator reports."""

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClass
from curriculum_api.v1alpha1.curriculum import TrainingCurriculum
from curriculum_api.v1alpha1.rented_pool import RentedPool

KINDS = (TrainingCurriculum, AcceleratorClass, RentedPool)

__all__ = ["KINDS", "AcceleratorClass", "RentedPool", "TrainingCurriculum"]
