"""The pipeline under the real DVC and git, in temporary copies of this repository.

Everything is tiny (scikit-learn's digits, perceptrons, 50 steps): what is checked is which stages
run, what they keep and what they leave, never accuracies.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from PIL import Image
from repository import (
    ROOT,
    Answer,
    Repository,
    clone,
    duplicate,
    set_params,
    tiny_params,
    tiny_scale,
)

FIGURES = tuple(key for key in tiny_scale() if key not in ("confusion", "defaults"))
FRONT = ["check", "scan"]
EXPERIMENT_STAGES = [*FRONT, "fetch", "confuse", "dilute", "train"]
TRAINING = {"confuse", "train", "confuse_figures", "train_figure"}
LONG, LONG_RUNS = FIGURES[0], 6  # the figure that is killed, and its number of trainings
LONG_METRICS = f"metrics/figures/tiny/{LONG}.json"
OUTPUTS = ("data", "metrics", "plots", "dvc.lock")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Answer]:
    """Return a repository whose tiny pipeline has run and is committed, and what DVC said."""
    repository = clone(tmp_path_factory.mktemp("first"))
    scale = tiny_scale()
    long = scale[LONG]
    long["train"] = long["train"] | {"min_samples": 16_000}
    long["grids"] = [{"noise.alpha": [1, 2, 3]}]
    repository.write_yaml("scales/tiny.yaml", scale)
    repository.write_yaml("params.yaml", tiny_params(FIGURES))
    repository.commit("Tiny")
    answer = repository.succeed("repro")
    repository.commit("Results")
    return repository, answer


@pytest.fixture
def fresh(first: tuple[Repository, Answer], tmp_path: Path) -> Repository:
    """Return a copy of that repository for one test alone."""
    return duplicate(first[0], tmp_path)


@pytest.fixture(scope="module")
def experiment(
    first: tuple[Repository, Answer], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Repository, Answer]:
    """Return a copy in which an experiment with another noise level has run, and what DVC said."""
    repository = duplicate(first[0], tmp_path_factory.mktemp("experiment"))
    answer = repository.succeed("exp", "run", "--name", "other", "--set-param", "noise.alpha=3")
    return repository, answer


def points(repository: Repository) -> set[str]:
    """Return the stored trainings, without what a kill has left half written."""
    return {path.name for path in repository.runs.glob("[!.]*.json")}


def read_json(repository: Repository, name: str) -> Any:
    return json.loads((repository.root / name).read_text(encoding="utf-8"))


def forget_points(repository: Repository) -> None:
    shutil.rmtree(repository.runs)


def contents(repository: Repository, *names: str) -> dict[str, bytes]:
    """Return the content of every file below the named files and folders."""
    return {name: content for name, (_, content) in repository.snapshot(*names).items()}


def trainings(answer: Answer) -> dict[str, tuple[int, int]]:
    """Return by title how many trainings a stage wanted, and how many no store held."""
    found = re.findall(r"^(.+): (\d+) runs, (\d+) to train on cpu$", answer.text, re.MULTILINE)
    return {title: (int(wanted), int(missing)) for title, wanted, missing in found}


def test_everything_runs_once(first: tuple[Repository, Answer]) -> None:
    _, answer = first
    each = ("dilute_figure", "train_figure", "draw")
    figures = ["fetch_figures", "confuse_figures", *(f"{s}@{key}" for key in FIGURES for s in each)]
    assert sorted(answer.ran) == sorted([*EXPERIMENT_STAGES, *figures])
    assert answer.ran[:2] == FRONT


def test_results_are_where_the_plots_look(first: tuple[Repository, Answer]) -> None:
    repository, _ = first
    assert 0 <= read_json(repository, "metrics/experiment.json")["test_accuracy"] <= 1
    for key in FIGURES:
        assert read_json(repository, f"metrics/figures/tiny/{key}.json")["points"]
        picture = repository.root / f"plots/figures/tiny/{key}"
        assert picture.with_suffix(".svg").read_bytes().startswith(b"<?xml")
        assert picture.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_left_that_git_does_not_know(first: tuple[Repository, Answer]) -> None:
    repository, _ = first
    assert repository.git("status", "--porcelain") == ""
    tracked = repository.git("ls-files").splitlines()
    assert [name for name in tracked if name.startswith(("data/", ".runs/"))] == ["data/README.md"]
    assert not [path for path in repository.root.rglob(".*.json") if path.is_file()]


def test_figures_share_points(first: tuple[Repository, Answer]) -> None:
    """What was trained once is not trained again, whoever asked first.

    The experiment has figure 8's point at alpha = 2 with all originals; figure 9 is made of figure
    8's points; delta = 0 is the same noise in every order.
    """
    asked = trainings(first[1])
    assert asked["experiment"] == (4, 4)
    assert asked["fig8_training_size"] == (8, 6)
    assert asked["fig9_critical_size"] == (8, 0)
    assert asked["fig5_structured"] == (8, 6)


def test_second_repro_runs_nothing(first: tuple[Repository, Answer]) -> None:
    repository, _ = first
    before = repository.snapshot(*OUTPUTS, ".runs")
    assert "up to date" in repository.succeed("status").stdout
    assert repository.succeed("repro").ran == []
    assert repository.snapshot(*OUTPUTS, ".runs") == before


def test_experiment_runs_only_what_noise_decides(experiment: tuple[Repository, Answer]) -> None:
    repository, answer = experiment
    assert answer.ran == ["check", "dilute", "train"]
    changed = repository.git("diff", "--name-only", "HEAD").split()
    assert changed == [
        "dvc.lock", "metrics/experiment.json", "metrics/times/experiment.json", "params.yaml",
    ]  # fmt: skip


def test_diffs_show_both_revisions(
    experiment: tuple[Repository, Answer], first: tuple[Repository, Answer]
) -> None:
    repository, _ = experiment
    answer = repository.succeed("params", "diff", "--json", "main", "other")
    changed = {"params.yaml": {"noise.alpha": {"old": 2, "new": 3, "diff": 1}}}
    assert json.loads(answer.stdout) == changed
    answer = repository.succeed("metrics", "diff", "--json", "main", "other")
    found = json.loads(answer.stdout)
    assert set(found) == {"metrics/experiment.json", "metrics/times/experiment.json"}
    accuracy = found["metrics/experiment.json"]["test_accuracy"]
    old, new = (read_json(r, "metrics/experiment.json") for r in (first[0], repository))
    assert (accuracy["old"], accuracy["new"]) == (old["test_accuracy"], new["test_accuracy"])
    answer = repository.succeed("plots", "diff", "--json", "main", "other")
    shown = json.loads(answer.stdout)["data"]
    for start in ("Experiment: learning curves", "Figure 5: "):
        ((plot,),) = [plots for title, plots in shown.items() if title.startswith(start)]
        assert set(plot["revisions"]) == {"main", "other"}
        assert '"rev": "other"' in json.dumps(plot["content"])


def test_plots_show_makes_a_page_that_works_offline(first: tuple[Repository, Answer]) -> None:
    repository, _ = first
    folder = repository.around / "page"
    repository.succeed("plots", "show", "--out", str(folder))
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("<script data-bundle=") == 3
    assert not re.findall(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=["']?\w""", page)
    assert not re.findall(r"@import|url\(['\"]?http", page)
    assert "Figure 9: " in page


@pytest.mark.parametrize(
    ("values", "stages"),
    [
        ({"noise.order": "random"}, ["dilute", "train"]),
        ({"noise.images": "white"}, ["fetch", "dilute", "train"]),
        ({"data.validation": 50}, ["dilute", "train"]),
        ({"model.name": "mlp1"}, ["train"]),
        ({"train.learning_rates": [0.1]}, ["train"]),
        ({"train.seeds": [5]}, ["dilute", "train"]),
        ({"train.rho": 0.9}, ["confuse", "train"]),
        ({"confusion.repeats": 3}, ["confuse"]),
    ],
    ids=str,
)
def test_params_decide_which_stages_run(
    fresh: Repository, values: dict[str, Any], stages: list[str]
) -> None:
    set_params(fresh, values)
    assert fresh.succeed("repro", "--dry").ran == ["check", *stages]


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("plots/pictures", {"draw"}),
        ("training/loop", TRAINING),
        ("labels/dilution", {*TRAINING, "dilute", "dilute_figure"}),
    ],
)
def test_code_decides_which_stages_run(fresh: Repository, module: str, stages: set[str]) -> None:
    with (fresh.root / f"stages/lib/{module}.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    ran = {name.partition("@")[0] for name in fresh.succeed("repro", "--dry").ran}
    assert ran == {*FRONT, *stages}


def test_what_python_compiles_changes_no_stage(fresh: Repository) -> None:
    cache = fresh.root / "stages/lib/core/__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "files.of-another-version.pyc").write_bytes(b"compiled")
    assert fresh.succeed("repro", "--dry").ran == []


def test_one_figure_alone(fresh: Repository) -> None:
    """Forced to run again it trains nothing, for its points are kept, and it says the same."""
    before = contents(fresh, "metrics")
    answer = fresh.succeed("repro", "--force", "--single-item", "train_figure@fig5_structured")
    assert answer.ran == ["train_figure@fig5_structured"]
    assert trainings(answer) == {"fig5_structured": (8, 0)}
    assert contents(fresh, "metrics") == before


def test_killed_figure_resumes(fresh: Repository) -> None:
    """SIGKILL of everything in the middle: the next run trains what is missing, nothing else."""
    whole = contents(fresh, LONG_METRICS)
    forget_points(fresh)
    target = f"train_figure@{LONG}"
    fresh.kill_when(lambda: len(points(fresh)) >= 2, "repro", "--force", "--single-item", target)
    kept = fresh.snapshot(".runs")
    stored = points(fresh)
    assert 2 <= len(stored) < LONG_RUNS
    answer = fresh.succeed("repro", target)
    assert answer.ran == [target]
    assert trainings(answer) == {LONG: (LONG_RUNS, LONG_RUNS - len(stored))}
    after = fresh.snapshot(".runs")
    assert len(points(fresh)) == LONG_RUNS
    assert {name: after[name] for name in kept} == kept
    assert contents(fresh, LONG_METRICS) == whole
    assert fresh.succeed("repro", target).ran == []


@pytest.mark.slow
def test_nothing_outlives_a_killed_stage(fresh: Repository) -> None:
    """SIGKILL of the stage's process alone, as when memory runs out: its workers must end too."""
    forget_points(fresh)
    target = f"train_figure@{LONG}"
    left = fresh.kill_stage_when(
        lambda: len(points(fresh)) >= 1, "repro", "--force", "--single-item", target
    )
    assert left == []


@pytest.mark.slow
def test_killed_experiment_resumes(fresh: Repository) -> None:
    # ConvNets train one by one on a CPU; perceptrons of one stack would all end at once.
    changes = ("train.min_samples=32000", "model.name=conv2", "model.width=0.1")
    command = ("exp", "run", *(word for change in changes for word in ("--set-param", change)))
    before = points(fresh)
    fresh.kill_when(lambda: len(points(fresh)) > len(before), *command)
    kept = fresh.snapshot(".runs")
    stored = points(fresh) - before
    assert 1 <= len(stored) < 4
    answer = fresh.succeed(*command)
    assert [name for name in answer.ran if name not in FRONT] == ["train"]
    assert trainings(answer) == {"experiment": (4, 4 - len(stored))}
    after = fresh.snapshot(".runs")
    assert {name: after[name] for name in kept} == kept
    resumed = contents(fresh, "metrics/experiment.json")
    forget_points(fresh)
    assert trainings(fresh.succeed("repro", "--force", "--single-item", "train")) == {
        "experiment": (4, 4)
    }
    assert contents(fresh, "metrics/experiment.json") == resumed


def test_temporary_workspace_shares_the_point_store(fresh: Repository) -> None:
    before = points(fresh)
    workspace = contents(fresh, *OUTPUTS, "params.yaml")
    answer = fresh.succeed("exp", "run", "--temp", "--set-param", "train.seeds=[0,1,2]")
    assert answer.ran == ["check", "dilute", "train"]
    assert trainings(answer) == {"experiment": (6, 2)}
    assert len(points(fresh) - before) == 2
    assert contents(fresh, *OUTPUTS, "params.yaml") == workspace


@pytest.mark.slow
def test_queued_experiments_share_the_point_store(fresh: Repository) -> None:
    before = points(fresh)
    fresh.succeed("exp", "run", "--queue", "--name", "queued", "--set-param", "train.seeds=[0,1,2]")
    fresh.succeed("exp", "run", "--run-all", "--jobs", "1")
    assert len(points(fresh) - before) == 2
    compared = json.loads(fresh.succeed("metrics", "diff", "--json", "main", "queued").stdout)
    assert "new" in compared["metrics/experiment.json"]["test_accuracy"]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ("noise.alpha=-1", "params.yaml: noise.alpha: got -1; accepted: a number at least 0"),
        ("model.width=wide", "params.yaml: model.width: got 'wide'; accepted: "),
        ("data.originals=2000", "params.yaml: data.originals: got 2000; accepted: at most 1338: "),
        (
            "scales/tiny.yaml:fig5_structured.noise.alpha=1",
            "scales/tiny.yaml: fig5_structured.noise.delta: got 1.0; accepted: at most 0.1 at",
        ),
        (
            "scales/tiny.yaml:confusion.subset=2000",
            "scales/tiny.yaml: confusion.subset: got 2000; accepted: at most 1238 beside 200 held-",
        ),
    ],
)  # fmt: skip
def test_bad_params_are_told_before_anything_is_lost(
    fresh: Repository, values: str, error: str
) -> None:
    before = fresh.snapshot(".runs", *OUTPUTS)
    answer = fresh.dvc("exp", "run", "--set-param", values)
    assert answer.status != 0
    (line,) = answer.errors
    assert line.startswith(f"error: {error}")
    assert "Traceback" not in answer.text
    assert answer.ran == ["check"]
    del before["data/checked.yaml"]  # which is all that DVC deletes
    assert fresh.snapshot(".runs", *OUTPUTS) == before


def test_a_change_of_a_scale_is_of_one_figure(fresh: Repository) -> None:
    change = f"scales/tiny.yaml:{LONG}.train.seeds=[0]"
    answer = fresh.succeed("exp", "run", "--set-param", change)
    front, each = ["check", "fetch_figures", "confuse_figures"], ("dilute_figure", "train_figure")
    assert sorted(answer.ran) == sorted([*front, *(f"{s}@{LONG}" for s in (*each, "draw"))])
    assert trainings(answer)[LONG] == (LONG_RUNS // 2, 0)


@pytest.mark.parametrize("scale", sorted(path.name for path in (ROOT / "scales").glob("*.yaml")))
def test_dvc_changes_a_scale_where_it_is_told_to(scale: str, tmp_path: Path) -> None:
    """It merges in place, so a part that several figures share by an anchor changes in all."""
    file = tmp_path / scale
    before = yaml.safe_load((ROOT / "scales" / scale).read_text(encoding="utf-8"))
    for figure in set(before) - {"confusion"}:
        shutil.copy(ROOT / "scales" / scale, file)
        apply_overrides(file, [f"++{figure}.train.seeds=[7]"])
        after = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert after.pop(figure)["train"]["seeds"] == [7]
        assert after == {key: value for key, value in before.items() if key != figure}


FOLDER = {
    "data": {"name": "folder", "path": "pictures", "size": 8, "originals": 60, "validation": 30},
    "confusion.subset": 40,
    "confusion.held_out": 60,
    "train.batch_size": 20,
}
HOSTILE = "x'; touch pwned; \"$(touch pwned)\" `touch pwned` ../../pwned '"
TEXTS = [
    f"{section}.{key}"
    for section, values in tiny_params(FIGURES).items()
    if isinstance(values, dict)
    for key, value in values.items()
    if isinstance(value, str) and key != "name"
]
EXPANDED = ["figures", "scale", "data.name", "data.path"]  # by DVC; the last is free


def plant(repository: Repository, name: str) -> None:
    set_params(repository, {name: [HOSTILE] if name == "figures" else HOSTILE})
    if name == "data.path":
        set_params(repository, {"data": FOLDER["data"] | {"path": HOSTILE}})


def assert_nothing_ran(repository: Repository, answer: Answer) -> None:
    assert answer.status != 0
    assert answer.text.count("ERROR: ") == 1, answer.text
    assert "Traceback" not in answer.text
    assert list(repository.around.rglob("*pwned*")) == []


@pytest.mark.parametrize(
    "name",
    [*EXPANDED, *(pytest.param(name, marks=pytest.mark.slow) for name in [*TEXTS, "model.name"])],
)
def test_no_text_of_the_params_reaches_a_shell(fresh: Repository, name: str) -> None:
    plant(fresh, name)
    assert_nothing_ran(fresh, fresh.dvc("repro"))


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("figures", "draw"),
        pytest.param("figures", "train_figure", marks=pytest.mark.slow),
        pytest.param("figures", "dilute_figure", marks=pytest.mark.slow),
        pytest.param("scale", "fetch_figures", marks=pytest.mark.slow),
    ],
)
def test_no_text_reaches_a_shell_even_when_a_stage_is_forced(
    fresh: Repository, name: str, stage: str
) -> None:
    """A forced stage alone runs without those before it, which would have refused the name."""
    plant(fresh, name)
    assert_nothing_ran(fresh, fresh.dvc("repro", "--force", "--single-item", stage))


@pytest.mark.parametrize("name", ["scale", "figures"])
def test_names_that_lead_out_of_the_repository_touch_nothing_there(
    fresh: Repository, name: str
) -> None:
    """DVC deletes a stage's outputs before it runs: none may be a path of somebody else's."""
    outside = fresh.around / "precious.json"
    outside.write_text("precious", encoding="utf-8")
    way_out = "../../../../precious"
    set_params(fresh, {name: way_out if name == "scale" else [way_out]})
    assert_nothing_ran(fresh, fresh.dvc("repro", "--force"))
    assert outside.read_text(encoding="utf-8") == "precious"


# --- two at once


def start(repository: Repository, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments], cwd=repository.root, encoding="utf-8",
        env=repository.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> Answer:
    said, _ = process.communicate(timeout=300)
    return Answer(process.returncode, said, "")


def test_the_second_of_two_repros_is_told_what_to_do(fresh: Repository) -> None:
    whole = contents(fresh, "metrics/figures", "plots")
    forget_points(fresh)
    target = f"train_figure@{LONG}"
    first = start(fresh, "repro", "--force", "--single-item", target)
    while not points(fresh):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    family = psutil.Process(first.pid).children(recursive=True)
    signal_all(family, psutil.Process.suspend)  # to be there still when the second comes
    second = ended(start(fresh, "repro", "--force", "--single-item", target))
    signal_all(family, psutil.Process.resume)
    assert ended(first).status == 0
    assert second.status != 0
    assert second.ran == []
    assert re.search(rf"blocked by.*\(PID {first.pid}\)", second.text, re.DOTALL), second.text
    assert contents(fresh, "metrics/figures", "plots") == whole
    assert len(points(fresh)) == LONG_RUNS


def signal_all(family: list[psutil.Process], signal: Callable[[psutil.Process], object]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):  # one that was about to end
            signal(process)


def test_an_experiment_elsewhere_beside_a_repro_shares_points_with_it(fresh: Repository) -> None:
    """Both train the experiment's runs, at the same time, into one store."""
    whole = contents(fresh, "metrics/experiment.json")
    forget_points(fresh)
    here = start(fresh, "repro", "--force", "--single-item", "train")
    while not points(fresh):  # for `-S` writes into the params that it reads first
        assert here.poll() is None, here.communicate()
        time.sleep(0.05)
    beside = start(fresh, "exp", "run", "--temp", "--set-param", "train.seeds=[0,1,2]")
    answers = [ended(here), ended(beside)]
    assert [answer.status for answer in answers] == [0, 0], [answer.text for answer in answers]
    assert contents(fresh, "metrics/experiment.json") == whole
    kept = fresh.snapshot(".runs")
    assert len(points(fresh)) == 6
    alone = fresh.succeed("repro", "--force", "--single-item", "train")
    assert trainings(alone) == {"experiment": (4, 0)}  # each file is whole
    assert fresh.snapshot(".runs") == kept


@pytest.mark.slow
def test_two_workers_of_the_queue_share_the_point_store(fresh: Repository) -> None:
    for alpha in (3, 4, 5):
        fresh.succeed("exp", "run", "--queue", "--name", f"a{alpha}", "-S", f"noise.alpha={alpha}")
    before = points(fresh)
    fresh.succeed("queue", "start", "--jobs", "2")
    deadline = time.monotonic() + 300
    while "Success" not in (said := fresh.succeed("queue", "status").stdout) or (
        "Running" in said or "Queued" in said
    ):
        assert time.monotonic() < deadline, said
        time.sleep(1)
    assert said.count("Success") == 3, said
    assert len(points(fresh) - before) == 12
    queued = fresh.of_experiment("a4", "metrics/experiment.json")
    shutil.rmtree(fresh.runs)
    set_params(fresh, {"noise.alpha": 4})
    for stage in ("dilute", "train"):
        fresh.succeed("repro", "--force", "--single-item", stage)
    assert (fresh.root / "metrics/experiment.json").read_text(encoding="utf-8") == queued


def write_pictures(folder: Path, classes: tuple[str, ...]) -> None:
    """Write a folder of small pictures, each class of its own colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, size=(9, 11, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{i:02}.png")


def test_a_folder_of_images_is_trained_on_and_looked_at_in_every_run(fresh: Repository) -> None:
    classes = ("blue", "green", "red")
    write_pictures(fresh.root / "pictures", classes)
    noise = {"kind": "structured", "alpha": 6, "delta": 1.0, "order": "confusing", "images": "same"}
    set_params(fresh, FOLDER | {"noise": noise})
    assert fresh.succeed("repro", "train").ran == EXPERIMENT_STAGES
    described = read_json(fresh, "data/datasets/experiment/folder/dataset.json")
    assert (described["class_names"], described["channels"]) == (list(classes), 3)
    assert np.shape(read_json(fresh, "data/confusion/folder.json")["counts"]) == (3, 3)
    report = read_json(fresh, "metrics/experiment.json")
    assert report["examples"] == 7 * 60
    assert len(report["confusion"]) == 9
    assert fresh.succeed("repro", "train").ran == ["scan"]
    whole = contents(fresh, "data/datasets/experiment")
    moved = fresh.root / "pictures/train/red/00.png"
    moved.rename(fresh.root / "red.png")
    answer = fresh.succeed("exp", "run", "-S", "data.originals=50", "train")
    assert answer.ran == ["check", *EXPERIMENT_STAGES[1:]]
    assert (
        "pictures: changed since it was fetched: 120 training and 30 test images then, 119 "
        "training and 30 test images now\n"
    ) in answer.stdout
    (fresh.root / "red.png").rename(moved)
    assert fresh.succeed("exp", "run", "--temp", "-S", "data.originals=60", "train").ran == ["scan"]
    fresh.succeed("repro", "fetch")
    assert contents(fresh, "data/datasets/experiment") == whole


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (
            {"noise.kind": "structured", "noise.alpha": 2, "noise.delta": 0.9},
            "params.yaml: noise.delta: got 0.9; accepted: at most 0.666666 at alpha 2 with 3",
        ),
        (
            {"data.originals": 100},
            "params.yaml: data.originals: got 100; accepted: at most 90: 30 of 120",
        ),
        ({"data.path": "gone"}, "gone'; accepted: a folder or an archive of images"),
    ],
    ids=["delta", "originals", "path"],
)  # fmt: skip
def test_what_a_folder_cannot_give_is_told_before_anything_is_lost(
    fresh: Repository, values: dict[str, Any], error: str
) -> None:
    write_pictures(fresh.root / "pictures", ("blue", "green", "red"))
    set_params(fresh, FOLDER)
    set_params(fresh, values)
    before = contents(fresh, "data/datasets", "data/labels", "metrics", "plots")
    answer = fresh.dvc("repro", "train")
    assert answer.status != 0
    assert answer.ran == FRONT
    (line,) = answer.errors
    assert error in line
    assert contents(fresh, "data/datasets", "data/labels", "metrics", "plots") == before
