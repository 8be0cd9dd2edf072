"""What is done about DVC's files that a kill has cut."""

from pathlib import Path

import pytest

from tools import lock

WHOLE = (Path(__file__).parents[1] / "dvc.lock").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lock"])
    monkeypatch.setattr(lock, "AGAIN_SECONDS", 0.0)
    Path(".dvc/tmp/exps").mkdir(parents=True)


def test_whole_files_stay() -> None:
    assert lock.mend(Path()) == []  # there are none
    Path("dvc.lock").write_text(WHOLE, encoding="utf-8")
    Path(".dvc/tmp/rwlock").write_text("{}", encoding="utf-8")
    assert lock.mend(Path()) == []


# Somewhere within a line; a cut between two stages leaves a file that is whole to DVC.
CUTS = [
    WHOLE[: int(share * len(WHOLE))].rpartition("md5: ")[0] + "md5: 0123\n      si"
    for share in (0.3, 0.7)
]


@pytest.mark.parametrize(
    ("name", "text"),
    [("dvc.lock", text) for text in ("", *CUTS)]
    + [(f".dvc/tmp/{name}", text) for name in ("rwlock", "exps/rwlock") for text in ("", '{"a": ')],
)
def test_a_cut_file_is_put_aside(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text(text, encoding="utf-8")
    lock.main()
    assert f"{name} was cut by a kill" in capsys.readouterr().err
    assert not Path(name).exists()
    assert Path(f"{name}.cut").read_text(encoding="utf-8") == text
    assert lock.mend(Path()) == []


def test_a_file_that_is_being_written_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(".dvc/tmp/rwlock")
    file.write_text("", encoding="utf-8")
    monkeypatch.setattr(lock.time, "sleep", lambda _: file.write_text("{}", encoding="utf-8"))
    assert lock.mend(Path()) == []
    assert file.exists()
