"""`curriculum plan` says what a curriculum takes, and ends with 0, 1 or 2."""

import json
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest
import yaml

from curriculum_api.classes import CLASSES
from curriculum_cli import plan
from curriculum_cli.plan_table import HEAD, WIDTH, table

EXAMPLES = Path(__file__).parents[2] / "examples"
ARTICLE = EXAMPLES / "article-8b.yaml"

PHASE_KEYS = {
    "name", "acceleratorClass", "nodes", "gpus", "tokens", "contextLength", "precision",
    "strategy", "memoryGiB", "memoryLimitGiB", "fits", "tokensPerSecond", "mfu", "hours", "usd",
    "problems",
}  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command's exit code, output and errors."""
    code = plan.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def changed(folder: Path, **phase: Any) -> str:
    """The article's curriculum with its first phase changed."""
    documents = list(yaml.safe_load_all(ARTICLE.read_text()))
    documents[1]["spec"]["phases"][0].update(phase)
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def rated(peak: str, attention: str = "1") -> dict[str, Any]:
    """A Spark's rates with others of its matrix products and attention."""
    matmul = [{"precision": "BF16", "peakTFLOPS": peak, "source": "x"}]
    known = CLASSES["gb10-sm121"]["performance"]
    return {**known, "matmul": matmul, "attentionTFLOPS": attention}


@pytest.mark.parametrize("name", ["article-8b.yaml", "demo.yaml"])
@pytest.mark.parametrize("profile", ["measured", "article"])
def test_a_table_fits_its_columns(
    name: str, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "-f", str(EXAMPLES / name), "--profile", profile)

    assert code == plan.FEASIBLE, out
    assert [line for line in out.splitlines() if len(line) > WIDTH] == []


def test_the_readme_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "-f", str(ARTICLE))
    readme = (EXAMPLES.parent / "README.md").read_text()
    (table,) = [block for block in readme.split("```") if block.startswith("\nphase ")]

    assert table.strip() in out


def test_a_cell_of_any_width_is_cut() -> None:
    cells = ["9" * 300] * len(HEAD)
    assert all("…" in cell for cell in list(table(HEAD, [cells]))[-1].split())


def test_json_has_the_named_keys_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "-f", str(ARTICLE), "-o", "json")
    document = json.loads(out)

    assert code == plan.FEASIBLE
    assert document["curriculum"] == "article-8b"
    assert document["feasible"] is True
    for phase in document["phases"]:
        assert phase.keys() >= PHASE_KEYS
        for key in ("memoryGiB", "memoryLimitGiB", "tokensPerSecond", "mfu", "hours", "usd"):
            assert isinstance(phase[key], float), key
        assert sum(phase["memory"].values()) == pytest.approx(phase["memoryGiB"])
        assert sum(phase["cost"].values()) == pytest.approx(phase["usd"])
        assert phase["hoursLeast"] <= phase["hours"] <= phase["hoursMost"]
    for key in ("hours", "usd"):
        assert document["totals"][key] == pytest.approx(sum(p[key] for p in document["phases"]))


def test_what_does_not_fit_names_ways_out_that_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The article's plain DDP: the figures, and changes that were computed."""
    code, out, _ = run(capsys, "-f", changed(tmp_path, strategy="DDP"), "-o", "json")
    first = json.loads(out)["phases"][0]

    assert code == plan.NOT_FEASIBLE
    assert first["fits"] is False
    (problem,) = first["problems"]
    assert problem.startswith("DDP with AdamW needs ")
    assert " of 119 GiB; " in problem
    assert "ZeRO1 needs " in problem
    for way in problem.split("; ")[1:]:
        words, _, needs = way.partition(" needs ")
        assert float(needs) <= 119
        if words in ("ZeRO1", "ZeRO2", "ZeRO3"):
            code, out, _ = run(capsys, "-f", changed(tmp_path, strategy=words), "-o", "json")
            assert json.loads(out)["phases"][0]["memoryGiB"] == pytest.approx(float(needs), abs=0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            {"precision": "NVFP4"},
            'accelerator class "gb10-sm121" cannot train NVFP4; it can: FP32, BF16, FP8',
            id="precision",
        ),
        pytest.param(
            {"acceleratorClass": "h100"}, "known: b200-sm100, gb10-sm121; add it", id="class"
        ),
        pytest.param({"pool": "gone"}, 'rented pool "gone" is not known; known: ', id="pool"),
        pytest.param({"gpusPerNode": 2}, "gpusPerNode 2 is more than the 1", id="gpus"),
        pytest.param(
            {"globalBatchTokens": 1048576},
            "globalBatchTokens 1048576 is not a multiple of 163840, one sequence of 8192 for each"
            " of the 20 data-parallel ranks: take 983040",
            id="batch",
        ),
        pytest.param(
            {"sequenceParallel": 20}, "does not divide the model's 32 attention heads", id="heads"
        ),
        pytest.param(
            {"activeDeadlineSeconds": 3600}, "but activeDeadlineSeconds 3600 allows 1.0", id="late"
        ),
        pytest.param(
            {"memory": {"offloadActivations": True}}, "set both", id="offload"
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_its_figures(
    change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "-f", changed(tmp_path, **change), "-o", "json")

    assert code == plan.NOT_FEASIBLE
    assert any(words in problem for problem in json.loads(out)["phases"][0]["problems"]), out


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param(
            {"cpuArchitecture": "amd64"}, "its product has a Grace CPU: set arm64", id="cpu"
        ),
        pytest.param(
            {"image": "registry.example/trainer:0.1-amd64"}, "is for amd64, but nodes", id="image"
        ),
        pytest.param(
            {"trains": ["BF16", "NVFP4"]}, "has no NVFP4 training kernels", id="capability"
        ),
        pytest.param({"performance": rated("1e-320")}, "too large or too small", id="nothing"),
        pytest.param({"performance": rated("125", "1e300")}, "above its peak", id="impossible"),
    ],
)
def test_a_class_that_contradicts_itself_is_told(
    fields: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"image": "trainer", **CLASSES["gb10-sm121"], **fields}
    kind = tmp_path / "class.yaml"
    kind.write_text(yaml.safe_dump({
        "apiVersion": "curriculum.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": "gb10-sm121"},
        "spec": spec,
    }))  # fmt: skip
    precision = "NVFP4" if "trains" in fields else "BF16"
    file = changed(tmp_path, precision=precision, contextLength=2**20, globalBatchTokens=None)

    code, out, _ = run(capsys, "-f", file, "-f", str(kind), "-o", "json")

    assert code == plan.NOT_FEASIBLE
    assert any(words in problem for problem in json.loads(out)["phases"][0]["problems"]), out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("a: [", "is not YAML", id="no yaml"),
        pytest.param("- 1\n", "holds a document that is no Kubernetes object", id="no object"),
        pytest.param("", "hold no TrainingCurriculum", id="empty"),
        pytest.param(
            "apiVersion: curriculum.dev/v1alpha1\nkind: TrainingCurriculum\n"
            "metadata: {name: x}\nspec: {}\n",
            "TrainingCurriculum x: model: required, but absent",
            id="no spec",
        ),
        pytest.param(
            ARTICLE.read_text().replace("name: quality", "name: pretrain"),
            "`phases[].name` must be unique",
            id="one name twice",
        ),
        pytest.param(
            ARTICLE.read_text().replace("llama-3.1-8b", "llama-9"),
            'model.preset "llama-9" is not known: choose one of llama-3.1-8b',
            id="no such preset",
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(content)

    code, out, error = run(capsys, "-f", str(file))

    assert code == plan.UNREADABLE
    assert out == ""
    assert words in error
    assert error.count("\n") == 1


def test_a_missing_file_and_a_wrong_option_cannot_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(capsys, "-f", "/nowhere.yaml")[0] == plan.UNREADABLE
    assert run(capsys, "--nonsense")[0] == plan.UNREADABLE
    assert run(capsys, "--help")[0] == plan.FEASIBLE


def test_short_documents_make_attention_cheaper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ("web-code", "curated-code", "repositories", "preferences"):
        folder = tmp_path / source
        folder.mkdir()
        offsets = array("q", range(0, 1000 * 1001, 1000))
        (folder / "documents.bin").write_bytes(offsets.tobytes())

    whole = json.loads(run(capsys, "-f", str(ARTICLE), "-o", "json")[1])
    short = json.loads(run(capsys, "-f", str(ARTICLE), "--data", str(tmp_path), "-o", "json")[1])

    assert [phase["attendedTokens"] for phase in short["phases"]] == [1000.0] * 4
    for before, after in zip(whole["phases"], short["phases"], strict=True):
        assert after["hours"] < before["hours"]
        assert after["memoryGiB"] == before["memoryGiB"]


def test_data_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, "-f", str(ARTICLE), "--data", str(tmp_path))

    assert code == plan.UNREADABLE
    assert 'no prepared source "curated-code"' in error


def test_the_page_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = changed(tmp_path, strategy="DDP", name="a")
    code, out, _ = run(capsys, "-f", file, "-o", "html")

    assert code == plan.NOT_FEASIBLE
    assert out.startswith("<!doctype html>")
    assert not [word for word in ("http:", "https:", "src=", "@import", "<script") if word in out]
    assert '<p class="bad">a: DDP with AdamW needs' in out


def test_the_program_plans_without_typer_torch_and_kopf() -> None:
    code = (
        "import sys; sys.argv = ['curriculum', 'plan', '-f', sys.argv[1]];"
        "from curriculum_cli import start\n"
        "try: start.main()\n"
        "except SystemExit as ended: print(ended.code)\n"
        "print([m for m in ('typer', 'rich', 'torch', 'kopf', 'kubernetes') if m in sys.modules])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, str(ARTICLE)], capture_output=True, text=True, check=True
    )

    assert seen.stdout.splitlines()[-2:] == ["0", "[]"]


def test_help_names_the_command() -> None:
    from typer.testing import CliRunner

    from curriculum_cli.main import app

    answer = CliRunner().invoke(app, ["plan", "-f", str(ARTICLE), "-o", "json"])

    assert answer.exit_code == plan.FEASIBLE, answer.output
    assert "plan" in CliRunner().invoke(app, ["--help"]).output


def test_the_best_plan_comes_with_its_front_and_patch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "-f", str(ARTICLE), "--optimize", "cost", "--deadline", "60d")

    assert code == plan.FEASIBLE
    assert "in both hours and dollars:" in out
    assert "# kubectl patch tcur article-8b --type=json" in out
    assert [line for line in out.splitlines() if len(line) > WIDTH] == []


def test_a_deadline_that_cannot_be_kept_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "-f", str(ARTICLE), "--optimize", "cost", "--deadline", "1h")

    assert code == plan.NOT_FEASIBLE
    assert "no layout keeps to that: the soonest takes" in error


def unpriced(folder: Path) -> str:
    """The article's quality and long-context, on Sparks that nobody priced and rented nodes."""
    pool, spec, *rest = yaml.safe_load_all(ARTICLE.read_text())
    spec["spec"]["phases"] = spec["spec"]["phases"][1:3]
    sparks = dict(CLASSES["gb10-sm121"])
    sparks.pop("ownership")
    kind = {
        "apiVersion": "curriculum.dev/v1alpha1", "kind": "AcceleratorClass",
        "metadata": {"name": "gb10-sm121"}, "spec": {"image": "trainer", **sparks},
    }  # fmt: skip
    path = folder / "unpriced.yaml"
    path.write_text(yaml.safe_dump_all([pool, spec, *rest, kind]))
    return str(path)


def test_what_has_no_price_costs_not_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unpriced(tmp_path)
    code, out, _ = run(capsys, "-f", file)

    assert code == plan.FEASIBLE, out
    (quality,) = [line for line in out.splitlines() if line.startswith("quality ")]
    assert quality.endswith(" ?")
    assert "without quality" in " ".join(out.split())
    assert 'cost not known: give accelerator class "gb10-sm121" spec.ownership' in out
    assert "of the money" not in out
    document = json.loads(run(capsys, "-f", file, "-o", "json")[1])
    assert [phase["usd"] is None for phase in document["phases"]] == [True, False]
    assert document["totals"]["usd"] is None
    assert document["totals"]["unpriced"] == ["quality"]
    assert "without quality" in run(capsys, "-f", file, "-o", "html")[1]


def test_a_pool_that_is_not_known_has_no_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "changed.yaml"
    path.write_text(ARTICLE.read_text().replace("pool: b200-cloud", "pool: nowhere"))
    code, out, _ = run(capsys, "-f", str(path))

    assert code == plan.NOT_FEASIBLE
    assert "without long-context, preferences" in " ".join(out.split())
    assert [line for line in out.splitlines() if len(line) > WIDTH] == []


def test_the_cheapest_of_what_has_no_price_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = list(yaml.safe_load_all(Path(unpriced(tmp_path)).read_text()))
    documents[1]["spec"]["phases"] = documents[1]["spec"]["phases"][:1]
    file = tmp_path / "owned.yaml"
    file.write_text(yaml.safe_dump_all(documents[1:]))
    for asked in (["cost"], ["time", "--budget", "1e9"]):
        code, out, error = run(capsys, "-f", str(file), "--optimize", *asked)
        assert (code, out) == (plan.NOT_FEASIBLE, "")
        assert 'class "gb10-sm121" has no spec.ownership' in error

    code, out, _ = run(capsys, "-f", str(file), "--optimize", "time")
    assert code == plan.FEASIBLE
    assert "no price known" in out
