"""The limit on open files is raised for connections, and what it leaves no room for is not opened."""

import resource

import pytest

from secbatch.open_files import ENOUGH, room_for

NO_LIMIT = resource.RLIM_INFINITY


class Limits:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *now: int) -> None:
        self.now = now
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.now)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, _: int, wanted: tuple[int, int]) -> None:
        self.now = wanted


@pytest.mark.parametrize(
    ("limits", "wanted", "room", "after"),
    [
        ((256, NO_LIMIT), 1024, 1024, (ENOUGH, NO_LIMIT)),  # macOS
        ((1024, 524_288), 1024, 1024, (ENOUGH, 524_288)),  # systemd
        ((1024, 4096), 1024, 1024, (4096, 4096)),
        ((256, 256), 400, 128, (256, 256)),
        ((64, 1024), 1024, 768, (1024, 1024)),
        ((1024, 1024), 16, 16, (1024, 1024)),
        ((1, 1), 16, 1, (1, 1)),
        ((20_000, 20_000), 1024, 1024, (20_000, 20_000)),
        ((NO_LIMIT, NO_LIMIT), 1024, 1024, (NO_LIMIT, NO_LIMIT)),
    ],
)
def test_there_is_room(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], wanted: int, room: int, after: tuple[int, int]
) -> None:
    system = Limits(monkeypatch, *limits)
    assert room_for(wanted) == room and system.now == after


@pytest.mark.parametrize("refusal", [PermissionError, ValueError])
def test_a_system_that_lets_no_limit_be_raised(monkeypatch: pytest.MonkeyPatch, refusal: type[Exception]) -> None:
    def refuse(_: int, wanted: tuple[int, int]) -> None:
        raise refusal("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, NO_LIMIT))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert room_for(400) == 128 and room_for(16) == 16
