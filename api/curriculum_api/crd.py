"""The CustomResourceDefinitions, printed from the models.

`python -m curriculum_api.crd crds/` writes a file per kind; with `--check` it writes nothing, and
ends with 1 where a file is not what the models say. Writing needs PyYAML, which the `operator` and
`cli` extras bring.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from curriculum_api.structural import CannotExpressError, Schema, structural
from curriculum_api.v1alpha1 import KINDS
from curriculum_api.wire import GROUP, VERSION, Column, Resource, Wire

CATEGORY: Final = "training"
"""`kubectl get training` lists all kinds."""

_HEADER: Final = "# Made from the models in api/curriculum_api by `make generate`; edit those.\n"

_ENVELOPE: Final[Schema] = {
    "apiVersion": {
        "description": "Group and version of the schema that this object is written in.",
        "type": "string",
    },
    "kind": {"description": "Kind of this object.", "type": "string"},
    "metadata": {"type": "object"},  # the API server describes it, and refuses another description
}


def definition(kind: type[Wire], resource: Resource) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind. Raises CannotExpressError."""
    name = kind.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": resource.plural,
                "singular": name.lower(),
                "shortNames": list(resource.short_names),
                "categories": [CATEGORY],
            },
            "scope": resource.scope,
            "versions": [_version(kind, resource)],
        },
    }


def _version(kind: type[Wire], resource: Resource) -> dict[str, Any]:
    body = structural(kind, without=frozenset(_ENVELOPE))
    schema = {**body, "properties": {**_ENVELOPE, **body["properties"]}}
    status: Schema = {"status": {}} if "status" in body["properties"] else {}
    selectable = [{"jsonPath": path} for path in resource.selectable]
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        **({"subresources": status} if status else {}),
        "additionalPrinterColumns": [_column(column) for column in resource.columns],
        **({"selectableFields": selectable} if selectable else {}),
        "schema": {"openAPIV3Schema": schema},
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        **({"description": column.description} if column.description else {}),
        **({"priority": column.priority} if column.priority else {}),
    }


def definitions() -> dict[str, dict[str, Any]]:
    """Every kind's definition by its file's name. Raises CannotExpressError."""
    return {f"{kind.resource.plural}.yaml": definition(kind, kind.resource) for kind in KINDS}


def text(document: Mapping[str, Any]) -> str:
    """A definition as YAML: keys in the order they were declared, no anchors, no folding."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise SystemExit(
            "cannot write YAML: PyYAML is not installed: install curriculum-operator[operator]"
        ) from error

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's own signature
            return True

    body = yaml.dump(
        document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100_000, indent=2
    )
    return _HEADER + str(body)


def stale(folder: Path, wanted: Mapping[str, str]) -> list[Path]:
    """The files that are not what they should be, the missing and the surplus ones among them."""
    present = {path.name: path.read_text() for path in folder.glob("*.yaml")}
    names = sorted(present.keys() | wanted.keys())
    return [folder / name for name in names if present.get(name) != wanted.get(name)]


def main(arguments: Sequence[str]) -> int:
    """Write or check the files; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m curriculum_api.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where one is stale")
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    folder: Path = chosen.folder
    try:
        wanted = {name: text(document) for name, document in definitions().items()}
    except CannotExpressError as error:
        print(f"cannot make a CRD: {error}", file=sys.stderr)
        return 1
    out_of_date = stale(folder, wanted)
    if chosen.check:
        for path in out_of_date:
            print(f"{path} is not what the models say: run `make generate`", file=sys.stderr)
        return 1 if out_of_date else 0
    folder.mkdir(parents=True, exist_ok=True)
    for path in out_of_date:
        if path.name in wanted:
            path.write_text(wanted[path.name])
        else:
            path.unlink()
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
