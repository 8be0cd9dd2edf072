"""What is done about a ``dvc.lock`` that a kill has cut."""

from pathlib import Path

import pytest

from tools import lock

WHOLE = (Path(__file__).parents[1] / "dvc.lock").read_text(encoding="utf-8")


def test_a_whole_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock.main()  # there is none
    Path("dvc.lock").write_text(WHOLE, encoding="utf-8")
    lock.main()
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.lock"]


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.7])
def test_a_cut_file_is_put_aside(
    share: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Somewhere within a line; a cut between two stages leaves a file that is whole to DVC."""
    monkeypatch.chdir(tmp_path)
    cut = WHOLE[: int(share * len(WHOLE))].rpartition("md5: ")[0] + "md5: 0123\n      si"
    Path("dvc.lock").write_text(cut if share else "", encoding="utf-8")
    lock.main()
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.lock.cut"]
    assert "dvc.lock was cut by a kill" in capsys.readouterr().err
