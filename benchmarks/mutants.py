"""Breaks the code at one place at a time and counts the breaks that the tests notice.

It needs mutmut 3.8.1 beside the packages of the tests, and works on a clone of HEAD. The mutants
are mutmut's, its runner is not: that puts all mutants into one file, which makes a training's
digest of the code slow, and it fails in processes that work in other folders.
"""

import argparse
import difflib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

#: What is broken, and the tests that are most likely to notice; they are run first.
MODULES = {
    "stages/lib/noise/transitions.py": "noise",
    "stages/lib/noise/sampling.py": "noise",
    "stages/lib/labels/dilution.py": "dilution",
    "stages/lib/components/losses.py": "losses",
    "stages/lib/components/optimizers.py": "optimizers",
    "stages/lib/execution/store.py": "store",
    "stages/lib/studies/summaries.py": "summaries",
    "stages/lib/studies/thresholds.py": "summaries",
    "stages/lib/studies/computing.py": "computing",
}
NAMES = (*dict.fromkeys(MODULES.values()), "studies", "properties")
TESTS = [f"tests/test_{name}.py" for name in NAMES]
MEMORY = 32 << 30  # bytes of addresses for each process: a mutant may ask for any number


def mutants(file: str) -> dict[str, str]:
    """Return a module's mutated sources by their names: ``FILE:CLASS.FUNCTION:NUMBER``."""
    import libcst
    from mutmut.mutation.file_mutation import create_mutations

    module, changes, *_ = create_mutations(file, Path(file).read_text(encoding="utf-8"))
    owners: dict[Any, str] = {}
    sources: dict[str, str] = {}
    numbers = Counter[str]()
    for node in module.body:
        body = node.body.body if isinstance(node, libcst.ClassDef) else [node]
        prefix = f"{node.name.value}." if isinstance(node, libcst.ClassDef) else ""
        owners |= {f: prefix + f.name.value for f in body if isinstance(f, libcst.FunctionDef)}
    for change in changes:
        if name := owners.get(change.contained_by_top_level_function):
            numbers[name] += 1
            code = module.deep_replace(change.original_node, change.mutated_node).code
            sources[f"{file}:{name}:{numbers[name]}"] = code
    return sources


def pytest_main(*arguments: str) -> int:
    """Run pytest in this process, and forget what it imported from the current folder."""
    import pytest

    status = int(pytest.main(["-p", "no:cacheprovider", "--basetemp=.tests", *arguments]))
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{Path.cwd()}/"):
            del sys.modules[name]
    return status


def run(file: str, tests: list[str], limit: float) -> dict[str, Any]:
    """Run a module's own tests and then the others in a fork, up to the first that fails."""
    own = [test for test in tests if Path(test).name == f"test_{MODULES.get(file)}.py"]
    start, log, done, status = time.monotonic(), Path("log"), 0, 0
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for number in (1, 2):
            os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        groups = [group for group in (own, [t for t in tests if t not in own]) if group]
        os._exit(int(any(pytest_main("-x", *group) for group in groups)))
    while not done and time.monotonic() - start < limit:
        time.sleep(0.02)
        done, status = os.waitpid(child, os.WNOHANG)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it started
    if not done:
        os.waitpid(child, 0)
    text = log.read_text(encoding="utf-8", errors="replace")
    log.unlink()
    return {
        "outcome": "timeout" if not done else "killed" if status else "survived",
        "by": re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)[:1] if status else [],
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    """Draw mutants, run the tests on each, and write what came of it."""
    parser = argparse.ArgumentParser("python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("out", metavar="OUT.json", type=Path, help="whole after every mutant")
    parser.add_argument("--modules", nargs="+", default=list(MODULES), help="what is broken")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what may notice")
    parser.add_argument("--count", type=int, default=300, help="of mutants; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the sample; default %(default)s")
    given = parser.parse_args()
    out, start = given.out.resolve(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        subprocess.run(["git", "clone", "--quiet", Path(__file__).parents[1], folder], check=True)
        os.chdir(folder)
        Path("setup.cfg").write_text("[mutmut]\nsource_paths = .\n", encoding="utf-8")
        everything = {name: code for file in given.modules for name, code in mutants(file).items()}
        count = min(given.count, len(everything))
        drawn = random.Random(given.seed).sample(sorted(everything), count)
        pytest_main("--collect-only", "-q", *given.tests)  # loads libraries, for every fork
        sys.modules["__main__"].__spec__ = None  # HEAD, where workers look, may be without it
        os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
        clean = run(given.modules[0], given.tests, 3600)
        if clean["outcome"] != "survived":
            sys.exit(f"without any change the tests fail: {clean}")
        results: list[dict[str, Any]] = []
        for name in drawn:
            file = name.partition(":")[0]
            code = Path(file).read_text(encoding="utf-8")
            Path(file).write_text(everything[name], encoding="utf-8")
            result = run(file, given.tests, 60 + 4 * clean["seconds"])
            Path(file).write_text(code, encoding="utf-8")
            lines = (code.splitlines(), everything[name].splitlines())
            diff = list(difflib.unified_diff(*lines, lineterm="", n=0))[2:]
            results.append({"name": name, **result, "diff": diff})
            tally = {module: Counter[str]() for module in given.modules}
            for one in results:
                tally[one["name"].partition(":")[0]][one["outcome"]] += 1
            total = sum(tally.values(), Counter())
            report = {
                "tool": f"mutmut {metadata.version('mutmut')}",
                "generated": len(everything),
                "drawn": count,
                "seed": given.seed,
                "seconds": round(time.monotonic() - start),
                "clean_seconds": clean["seconds"],
                "outcomes": total,
                "killed": round(1 - total["survived"] / len(results), 4),  # a timeout is noticed
                "modules": tally,
                "mutants": results,
            }
            whole = out.with_suffix(".part")
            whole.write_text(json.dumps(report, indent=1), encoding="utf-8")
            whole.replace(out)
            print(f"{len(results)}/{count}", name, result["outcome"], *result["by"], flush=True)
    print(json.dumps({k: v for k, v in report.items() if k != "mutants"}, indent=1))


if __name__ == "__main__":
    main()
