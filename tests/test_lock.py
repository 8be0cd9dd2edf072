"""What is done about DVC's files that a kill has cut."""

from pathlib import Path

import pytest

from tools import lock

WHOLE = (Path(__file__).parents[1] / "dvc.lock").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "AGAIN_SECONDS", 0.0)
    Path(".dvc/tmp").mkdir(parents=True)


def test_whole_files_stay(capsys: pytest.CaptureFixture[str]) -> None:
    lock.main()  # there are none
    Path("dvc.lock").write_text(WHOLE, encoding="utf-8")
    Path(".dvc/tmp/rwlock").write_text("{}", encoding="utf-8")
    lock.main()
    assert Path("dvc.lock").exists()
    assert Path(".dvc/tmp/rwlock").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_cut_lock_file_is_put_aside(share: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Somewhere within a line; a cut between two stages leaves a file that is whole to DVC."""
    cut = WHOLE[: int(share * len(WHOLE))].rpartition("md5: ")[0] + "md5: 0123\n      si"
    Path("dvc.lock").write_text(cut if share else "", encoding="utf-8")
    lock.main()
    assert [path.name for path in Path().glob("dvc*")] == ["dvc.lock.cut"]
    assert "dvc.lock was cut by a kill" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", '{"a": {'])
@pytest.mark.parametrize("folder", [".dvc/tmp", ".dvc/tmp/exps"])
def test_a_cut_table_of_locks_is_put_aside(folder: str, text: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "rwlock").write_text(text, encoding="utf-8")
    assert lock.mend(Path()) == [f"{folder}/rwlock"]
    assert [path.name for path in Path(folder).iterdir()] == ["rwlock.cut"]
    assert lock.mend(Path()) == []


def test_a_file_that_is_being_written_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(".dvc/tmp/rwlock")
    file.write_text("", encoding="utf-8")
    monkeypatch.setattr(lock.time, "sleep", lambda _: file.write_text("{}", encoding="utf-8"))
    assert lock.mend(Path()) == []
    assert file.read_text(encoding="utf-8") == "{}"
