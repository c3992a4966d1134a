"""What all kinds share: the parts of `metadata` that are read, and the column of ages."""

from pydantic import ConfigDict

from curriculum_api.wire import Column, Wire

AGE = Column("Age", ".metadata.creationTimestamp", type="date", description="Time since creation.")


class ObjectMeta(Wire):
    """The parts of an object's metadata that are read here."""

    model_config = ConfigDict(extra="ignore")

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
