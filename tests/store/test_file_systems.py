"""Where an output may not lie, and what is refused there."""

import errno
import os
from pathlib import Path

import pytest

from secbatch.errors import UnfitOutputError
from secbatch.store.filesystem import check_output_place, explain, make_folder
from secbatch.store.layout import Layout
from secbatch.store.versions import check_own


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "fuse.s3fs"])
def test_file_systems_of_servers_are_refused_also_those_that_a_user_mounts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = f"server:/x {tmp_path}/far {kind} rw 0 0"
    mounts = f"disk {tmp_path}/far/near fuse.ext4 rw 0 0\n{far}\ndisk / ext4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_bytes", lambda path: mounts.encode())
    with pytest.raises(UnfitOutputError, match=rf"on a network file system \({kind}\), where renames"):
        check_output_place(tmp_path / "far/out")
    check_output_place(tmp_path / "far/near/out")  # what is mounted inside is not the server's
    check_output_place(tmp_path / "farther/out")


@pytest.mark.parametrize("place", ["out/data", "out/data/more", "out/_secbatch/parts", "link/data"])
def test_an_output_within_another_one_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "out/_secbatch/versions/000001").mkdir(parents=True)
    (tmp_path / "out/data").symlink_to("_secbatch/versions/000001")
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(UnfitOutputError, match=rf"lies within what belongs to the output '{tmp_path}/out'"):
        check_output_place(tmp_path / place)
    check_output_place(tmp_path / "link")


@pytest.mark.parametrize("place", ["~/out", "~root/out", "~"])
def test_a_home_that_no_shell_has_put_in_is_refused(place: str) -> None:
    with pytest.raises(UnfitOutputError, match="begins with '~', which is not known here; write the whole path"):
        check_output_place(Path(place))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "disk of 'out' is full"),
        (errno.EDQUOT, "disk of 'out' is full"),
        (errno.EACCES, "'out' is not writable"),
        (errno.EROFS, "'out' is not writable"),
        (errno.EIO, "'out' cannot be written: Input/output error"),
    ],
)
def test_a_refusal_is_one_sentence(number: int, said: str) -> None:
    assert said in str(explain(OSError(number, os.strerror(number)), Path("out")))


@pytest.mark.parametrize("target", ["archive/000001", "_secbatch/versions/latest", "000001"])
def test_a_link_of_somebody_else_is_left_alone(target: str, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(target)
    with pytest.raises(UnfitOutputError, match="is there already and was not made by secbatch"):
        check_own(Layout(tmp_path))


def test_a_folder_that_another_run_makes_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists, folder = Path.exists, tmp_path / "out"

    def made_meanwhile(path: Path) -> bool:
        folder.mkdir(exist_ok=True)
        return exists(path)

    monkeypatch.setattr(Path, "exists", made_meanwhile)
    make_folder(folder)
    assert folder.is_dir()
