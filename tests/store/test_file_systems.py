"""Where an output may not lie."""

from pathlib import Path

import pytest

from secbatch.errors import UnfitOutputError
from secbatch.store.filesystem import check_output_place


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
