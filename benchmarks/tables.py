"""Writes the tables of ``docs/`` from ``benchmarks/results`` and the figures' results.

``python -m benchmarks.tables``
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks import subjects
from benchmarks.gpu.steps import CHECK
from benchmarks.gpu.steps import RESULTS as TRAINED

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
FIGURES = "docs/figures.yaml"
SCALES = ("quick", "laptop")  # that were run
POINT = re.compile(r"\{(.+?) @ ([\d.]+)\}")
MEBI, MEGA, GIGA = 2**20, 1e6, 1e9


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ranged(found: dict[str, Any], scale: float = 1.0) -> str:
    """Return a median and its range, in units of ``scale``."""
    middle, low, high = (number(each / scale) for each in (found["median"], *found["range"]))
    return f"{middle} ({low} to {high})"


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, never in powers of ten."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"


def floors(results: dict[str, Any]) -> str:
    """Return operations, bytes and floor of each network, and how near its steps are."""
    rows = []
    for name in subjects.SHAPES:
        found = results["training-cpu"][name]
        ours = found["steps_per_second"]["ours"]["median"]
        rows.append(
            [
                name,
                number(found["operations_per_step"] / MEGA),
                number(found["bytes_per_step"] / MEGA),
                number(found["product_operations_per_second"]["median"] / GIGA),
                number(found["bandwidth_bytes_per_second"]["median"] / GIGA),
                number(1e3 * found["floor_seconds_per_step"]),
                number(1e3 / ours),
                f"{found['share_of_product_rate']:.0%}",
                f"{found['share_of_bandwidth']:.0%}",
            ]
        )
    head = ["network", "operations, millions", "bytes, millions", "product, billions/s"]
    head += ["copy, GB/s", "floor, ms", "ours, ms", "of the product's rate", "of the bandwidth"]
    return table(head, rows)


def training(results: dict[str, Any]) -> str:
    """Return steps per second of ours and of both scripts, with the ratios."""
    rows = []
    for name in subjects.SHAPES:
        found = results["training-cpu"][name]
        steps = found["steps_per_second"]
        rows.append(
            [
                name,
                *(ranged(steps[key]) for key in ("ours", "transforms", "tensors")),
                ranged(found["ratio_to_transforms"]),
                ranged(found["ratio_to_tensors"]),
            ]
        )
    head = ["network", "ours", "`transforms`", "`tensors`"]
    return table([*head, "ratio to `transforms`", "ratio to `tensors`"], rows)


def stacking(results: dict[str, Any]) -> str:
    """Return steps per second by network, size and way."""
    rows = [
        [name, str(row["members"]), row["stacking"], ranged(row["steps_per_second"])]
        for name in subjects.SHAPES
        for row in results["stacking-cpu"].get(name, [])
    ]
    return table(["network", "members", "convolutions", "steps per second"], rows)


def arithmetic(results: dict[str, Any]) -> str:
    """Return final accuracies and differences by way."""
    rows = []
    for way, found in results["arithmetic-cpu"].items():
        if not way.startswith(("float32", "bfloat16", "tf32")):
            continue
        row = [way, f"{found['mean']:.4f} ± {found['sd']:.4f}"]
        if "difference" in found:
            d = found["difference"]
            row += [f"{d['mean']:+.4f} ± {d['standard_error']:.4f}", f"{d['largest']:.4f}"]
        rows.append([*row, "", ""][:4])
    head = ["way", "test accuracy, mean ± sd", "difference, mean ± standard error"]
    return table([*head, "largest difference"], sorted(rows))


def labels(results: dict[str, Any]) -> str:
    """Return labels per second, ratios and memory."""
    report = results["labels"]
    rows = [
        [
            kind,
            ranged(report[kind]["labels_per_second"], scale=MEGA),
            ranged(report[kind]["ratio_to_loop"]),
            ranged(report[kind]["ratio_to_cleanlab"]),
            number(report[kind]["bytes_beyond_the_labels"] / MEBI),
        ]
        for kind in ("uniform", "structured")
    ]
    head = ["noise", "millions of labels/s", "times a loop", "times cleanlab", "memory, MiB"]
    imagenet = report["imagenet"]
    return (
        table(head, rows)
        + f"\n\nalpha = 100 on ImageNet, {imagenet['labels'] / MEGA:,.0f} million labels of 1,000 "
        f"classes: {ranged(imagenet['seconds'])} s."
    )


def pipeline(results: dict[str, Any]) -> str:
    """Return the pipeline's times, and slopes."""
    whole, growth = results["pipeline"], results["growth"]
    by_alpha, by_originals = (growth["dilution"][f"by_{key}"] for key in ("alpha", "originals"))
    trained, points = growth["training"], growth["points"]
    beyond = points["core_seconds_of_a_point_beyond_training"]
    rows = [
        ["cold `dvc repro`", f"{whole['cold']['seconds']:.0f} s, {whole['cold']['peak_mib']} MiB"],
        ["`dvc repro` with nothing to do", f"{ranged(whole['no_op']['seconds'])} s"],
        ["`dvc exp run -S noise.alpha=50`", f"{whole['exp_run']['seconds']:.0f} s"],
        ["a point beyond its training", f"{ranged(beyond, 1e-3)} ms of one core"],
        ["seconds to dilute, by alpha", f"slope {by_alpha['slope_of_seconds']:.2f}"],
        ["seconds to dilute, by originals", f"slope {by_originals['slope_of_seconds']:.2f}"],
        ["seconds of 300 steps, by examples", f"slope {trained['slope_of_seconds']:.2f}"],
        ["memory while training, by examples", f"slope {trained['slope_of_bytes']:.2f}"],
        ["memory of an example while training", f"{trained['bytes_per_example']:.1f} bytes"],
        ["bytes of an example on disk, at most", f"{whole['bytes_per_example']:.1f}"],
        ["seconds of a figure, by points", f"slope {points['slope_of_seconds']:.2f}"],
        ["memory of a figure, by points", f"slope {points['slope_of_bytes']:.2f}"],
    ]
    return table(["what", "measured"], rows)


def choices(results: dict[str, Any]) -> str:
    """Return each choice beside its alternatives."""
    report, rows = results["choices"], []
    groups = {
        "conv4, steps/s, freed memory": report["memory_steps_per_second"],
        "conv4's convolutions, ms": report["layout_milliseconds"],
        "AdaDelta on mlp2's weights, ms": report["optimizer_milliseconds"]["mlp2"],
        "AdaDelta on conv4's weights, ms": report["optimizer_milliseconds"]["conv4"],
        "AdaDelta on denormal averages, ms": report["denormals_milliseconds"],
    }
    for title, group in groups.items():
        rows += [[title, way.replace("_", " "), ranged(found)] for way, found in group.items()]
    return table(["measured", "way", "median and range"], rows)


def machines(results: dict[str, Any]) -> str:
    """Return how runs differ with other kernels and versions, beside what other seeds do."""
    report, rows = results["machines"], []
    for way, found in report.items():
        if isinstance(found, dict) and "accuracy_apart" in found:
            apart, equal = (
                found["accuracy_apart"],
                f"{found['equal_to_the_bit']} of {found['runs']}",
            )
            rows.append([way, equal, f"{apart['mean']:.4f}", f"{apart['largest']:.4f}"])
    seeds = report["other seeds"]
    rows.append(["another seed", "", f"{seeds['mean']:.4f}", f"{seeds['largest']:.4f}"])
    head = ["what is other", "runs equal to the bit", "test accuracy apart, mean", "largest"]
    return table(head, rows)


def longer(results: dict[str, Any]) -> str:
    """Return how a figure moves when it is trained longer, and what changes its order."""
    report = results["lengths"]
    found, more = report["longer"], f"{report['factor']:g} times as long"
    change, swapped = found["change"], found["pairs_swapped"]
    gaps = ", ".join(f"{pair['gap']:.4f}" for pair in swapped)
    rows = [
        ["points", str(found["points"])],
        [f"change of test accuracy when trained {more}, mean", f"{change['mean']:+.4f}"],
        ["from", f"{change['smallest']:+.4f}"],
        ["to", f"{change['largest']:+.4f}"],
        ["standard deviation over seeds, mean", f"{found['mean_sd_of_seeds']:.4f}"],
        ["pairs of networks at the same alpha", str(found["pairs"])],
        ["of them in another order", f"{len(swapped)}" + (f" (apart by {gaps})" if gaps else "")],
    ]
    return table(["what", "measured"], rows)


def very_long(results: dict[str, Any]) -> str:
    """Return accuracies and losses of long training at some moments, by alpha."""
    report = results["lengths"]["very_long"]
    head, moments = (
        ["examples seen"],
        [evaluation["examples_seen"] for evaluation in report[0]["curve"]],
    )
    for row in report:
        head += [f"α = {row['alpha']:g}: validation accuracy", "training loss"]
    rows = []
    for k, moment in enumerate(moments):
        line = [f"{moment:,}"]
        for row in report:
            evaluation = row["curve"][k]
            line.append(f"{evaluation['val_accuracy']:.3f} ± {evaluation['val_accuracy_sd']:.3f}")
            line.append(f"{evaluation['train_loss']:.3f}")
        rows.append(line)
    last = ["entropy of the labels"]
    for row in report:
        last += ["", f"{abs(row['entropy']):.3f}"]
    return table(head, [*rows, last])


def updates(results: dict[str, Any]) -> str:
    """Return AdaDelta's updates under noise alone, for each size of gradients."""
    rows = results["updates"]["updates"]
    sizes = sorted({row["gradient"] for row in rows})
    found = {(row["rho"], row["epsilon"], row["gradient"]): row["update"] for row in rows}
    head = ["rho", "epsilon", *(f"gradients of ± {size:g}" for size in sizes)]
    lines = [
        [f"{rho:g}", f"{epsilon:g}", *(f"{found[rho, epsilon, size]:.2f}" for size in sizes)]
        for rho, epsilon in sorted({(row["rho"], row["epsilon"]) for row in rows})
    ]
    return table(head, lines)


def variants(results: dict[str, Any]) -> str:
    """Return what each variant of a figure's point reaches, by question."""
    rows = []
    groups = results["variants"]["variants"]
    for question in sorted(groups, key=lambda name: int(name.split()[1].strip(","))):
        found = groups[question]
        for point in found["points"]:
            changes = ", ".join(f"`{name}={_value(v)}`" for name, v in point["changes"].items())
            (chosen,) = (r for r in point["rates"] if r["learning_rate"] == point["learning_rate"])
            seen = chosen.get("stopped_at", [point["examples_seen"]])
            row = [
                question,
                changes or "nothing",
                " and ".join(f"{count:,}" for count in sorted(set(seen))),
            ]
            rows.append([*row, f"{point['learning_rate']:g}", mean(point)])
    return table(["question", "changed", "examples seen", "rate", "test accuracy"], rows)


def _value(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, list) else f"{value}"


def figures(results: dict[str, Any]) -> str:
    """Return a list of all figures with their verdicts, then a section of each."""
    overview, sections = [], []
    for key, row in yaml.safe_load((ROOT / FIGURES).read_text(encoding="utf-8")).items():
        study = yaml.safe_load((ROOT / "studies" / f"{key}.yaml").read_text(encoding="utf-8"))
        heading = study["topic"]
        if "number" in study:
            heading = f"Figure {study['number']}: {heading}, {study['dataset']}"
        overview.append([f"[{heading}](#{slug(heading)})", row["verdict"]])
        found = {scale: results["figures"].get((scale, key)) for scale in SCALES}
        sections.append(f"## {heading}\n\n{section(key, row, study.get('claim'), found)}")
    return "\n\n".join([table(["figure", "verdict"], overview), *sections])


def slug(heading: str) -> str:
    """Return the anchor that a heading has on a page of Markdown's."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def unbroken(text: str) -> str:
    """Return a text in which lines break neither at ``±`` nor at ``=``, for narrow screens."""
    return re.sub(" ([±=]) ", "\u202f\\1\u202f", text)


def section(
    key: str, row: dict[str, Any], claim: str | None, found: dict[str, dict[str, Any] | None]
) -> str:
    """Return what the paper states, a figure's values by scale with its pictures, and a verdict.

    Args:
        key: the figure's.
        row: its texts: ``verdict``, ``why``, and ``rows`` of what, the paper's, and each scale's
            values, parts of a cell with ``;`` between them.
        claim: the paper's statement, if it is a figure of the paper's.
        found: its results by scale; None where it was not run.
    """
    picture = "[{0}](../plots/figures/{0}/{1}.png)"
    links = [picture.format(scale, key) for scale in SCALES if found[scale]]
    shown = f" Pictures: {', '.join(links)}." if links else ""
    parts = [f"`{key}`." + (f" The paper: {claim.strip()}" if claim else "") + shown]
    if links and "rows" in row:
        rows = []
        for what, paper, *texts in row["rows"]:
            cells = [
                stated(text, figure) if (figure := found[scale]) else "not run"
                for scale, text in zip(SCALES, texts, strict=True)
            ]
            said = [f"{what}; *paper: {paper}*" if paper else what]
            rows.append([unbroken(cell or "–").replace("; ", "<br>") for cell in said + cells])
        parts.append(table(["", *SCALES], rows))
    verdict = row["verdict"][0].upper() + row["verdict"][1:]
    return "\n\n".join([*parts, f"**{verdict}.** {row.get('why', '')}".strip()])


def stated(text: str, figure: dict[str, Any]) -> str:
    """Return a text with a figure's values in the places of its points, ``{series @ x}``.

    Raises:
        ValueError: the figure has no such point, or the point no value that can be given.
    """

    def value(match: re.Match[str]) -> str:
        series, x = match[1], float(match[2])
        points = [
            point
            for point in figure["points"]
            if (point["series"], point[figure["x"]]) == (series, x)
        ]
        if len(points) != 1:
            raise ValueError(f"{match[0]}: got {len(points)} points; must be one of the figure's")
        return _critical(points[0]) if "critical_size" in points[0] else mean(points[0])

    return POINT.sub(value, text)


def mean(point: dict[str, Any]) -> str:
    """Return a point's mean accuracy, mostly on test images, with its deviation over seeds."""
    spread = "(one seed)" if point["sd"] is None else f"± {point['sd']:.3f}"
    value = point["test_accuracy"] if "test_accuracy" in point else point["accuracy"]
    return f"{value:.3f} {spread}"


def _critical(point: dict[str, Any]) -> str:
    if point["critical_size"] is None:
        return str(point["status"])
    said = f"{point['critical_size']:,.0f}"
    return said + (f" (seeds {point['lo']:,.0f} to {point['hi']:,.0f})" if point["lo"] else "")


def gpu_steps(results: dict[str, Any]) -> str:
    """Return what each step of `benchmarks.gpu` may take, and took where it was run."""
    rows = []
    for command, steps in (("check", CHECK), ("results", TRAINED)):
        for step in steps:
            taken = [
                _taken(results.get(f"gpu-{command}-{device}"), step.name)
                for device in ("cuda", "cpu")
            ]
            rows.append([command, step.name, f"{step.seconds:g}", *taken])
    return table(["command", "step", "at most, s", "on a GPU, s", "rehearsed, s"], rows)


def _taken(report: dict[str, Any] | None, step: str) -> str:
    entry = {} if report is None else report["steps"].get(step, {})
    if "seconds" not in entry:
        return "not run"
    state = "" if entry["status"] == "done" else f" ({entry['status']})"
    return f"{entry['seconds']:g}{state}"


def candidates(results: dict[str, Any]) -> str:
    """Return what each candidate for a recipe reached on validation images, means over seeds."""
    rows, cells = [], []
    for found in results["recipe"]["candidates"]:
        reached = found["val_accuracy"]
        cells = [(name, alpha) for name, own in reached.items() for alpha in sorted(own, key=float)]
        each = (reached[network][alpha] for network, alpha in cells)
        means = [f"{sum(values) / len(values):.3f}" for values in each]
        error = found["gain_standard_error"]
        gain = f"{found['gain']:+.3f}" + ("" if error is None else f" ± {error:.3f}")
        lead = found["group"] == "lead"
        rows.append([found["name"], *means, "" if lead else gain])
    head = ["changed", *(f"{network}, α = {alpha}" for network, alpha in cells), "mean difference"]
    return table(head, rows)


#: the tables of each document
TABLES: dict[str, tuple[Callable[[dict[str, Any]], str], ...]] = {
    "docs/RESULTS.md": (figures,),
    "docs/PERFORMANCE.md": (floors, training, stacking, arithmetic, labels, pipeline, choices),
    "docs/FINDINGS.md": (longer, very_long, updates, variants),
    "docs/METHOD.md": (candidates,),
    "docs/REPRODUCIBILITY.md": (machines,),
    "docs/GPU.md": (gpu_steps,),
}


def measured() -> dict[str, Any]:
    """Return what the tables are of: reports by name; figures by scale and key, as in the tree."""
    results = {file.stem: json.loads(file.read_text("utf-8")) for file in RESULTS.glob("*.json")}
    files = [file for scale in SCALES for file in (ROOT / "metrics/figures" / scale).glob("*.json")]
    read = {(file.parent.name, file.stem): json.loads(file.read_text("utf-8")) for file in files}
    return {**results, "figures": read}


def filled(name: str, document: str, results: dict[str, Any]) -> str:
    """Return a document, one of `TABLES`, with its tables as the results have them."""
    for make in TABLES[name]:
        title = make.__name__
        place = re.compile(rf"(<!-- table: {title} -->\n).*?(<!-- end -->)", re.DOTALL)
        content = make(results)
        document, count = place.subn(lambda m, c=content: f"{m[1]}\n{c}\n\n{m[2]}", document)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{name}: got {count} places for {title}; must be one; add it")
    return document


def main() -> None:
    """Write the tables."""
    results = measured()
    for name in TABLES:
        text = (ROOT / name).read_text(encoding="utf-8")
        (ROOT / name).write_text(filled(name, text, results), encoding="utf-8")


if __name__ == "__main__":
    main()
