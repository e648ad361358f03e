"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitexport.errors import BitexportError, InputError, RuntimeFailure
from bitexport.files import check_writable, write_atomically, write_together

OLD, NEW = b"an older file", b"a new file" * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(OLD)
    return path


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_untouched(path: Path) -> None:
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_new_file(tmp_path: Path) -> None:
    path = tmp_path / "new.onnx"
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [path]


def test_old_file_is_replaced(path: Path) -> None:
    write_atomically(path, b"")
    assert path.read_bytes() == b""
    assert list(path.parent.iterdir()) == [path]


def test_relative_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    write_atomically(Path("model.onnx"), NEW)
    assert path.read_bytes() == NEW


def test_longest_name(tmp_path: Path) -> None:
    """The file beside the destination must not need a longer name than the destination's."""
    path = tmp_path / ("x" * 250 + ".onnx")
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW


def test_readers_of_the_old_file_keep_it(path: Path) -> None:
    with path.open("rb") as reader:
        write_atomically(path, NEW)
        assert reader.read() == OLD


def test_mode_is_that_of_any_new_file(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "new.onnx"
    write_atomically(path, NEW)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert os.umask(umask) == umask


def raises(error: BaseException) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


STEPS = ["os.fsync", "os.fdopen", "pathlib.Path.replace", "pathlib.Path.chmod", "tempfile.mkstemp"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, RuntimeFailure),
        (errno.EDQUOT, RuntimeFailure),
        (errno.EFBIG, RuntimeFailure),
        (errno.EIO, RuntimeFailure),
        (errno.EACCES, InputError),
        (errno.EROFS, InputError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_failure_leaves_the_old_file(
    step: str,
    number: int,
    kind: type[BitexportError],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, raises(os_error(number)))
    with pytest.raises(kind) as caught:
        write_atomically(path, NEW)
    monkeypatch.undo()
    assert caught.value.exit_code == (1 if kind is RuntimeFailure else 2)
    assert str(path) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert "Errno" not in str(caught.value)
    assert_untouched(path)


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, MemoryError])
def test_interruption_leaves_the_old_file(
    step: str, problem: type[BaseException], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, raises(problem()))
    with pytest.raises(problem):
        write_atomically(path, NEW)
    monkeypatch.undo()
    assert_untouched(path)


def test_the_data_are_on_the_disk_before_the_name_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        steps.append(f"fsync of {os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> Path:
        steps.append(f"replace in {source.parent.name}")
        assert path.read_bytes() == OLD
        return replace(source, target)

    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_atomically(path, NEW)
    assert steps == [f"fsync of {len(NEW)} bytes", f"replace in {path.parent.name}"]


class TestCheckWritable:
    """Refused before any long work, by the same words as a failed write."""

    def refusal(self, path: Path, source: Path | None = None) -> str:
        with pytest.raises(InputError) as caught:
            check_writable(path, source=source)
        with pytest.raises(InputError):
            if source is None:
                write_atomically(path, NEW)
            else:
                raise caught.value
        assert caught.value.exit_code == 2
        assert str(path) in str(caught.value)
        return str(caught.value)

    def test_fine(self, path: Path) -> None:
        check_writable(path)
        check_writable(path.with_name("other.onnx"), source=path)
        check_writable(path, source=path.with_name("missing.pth"))
        assert_untouched(path)

    def test_directory(self, tmp_path: Path) -> None:
        assert "a directory" in self.refusal(tmp_path)

    def test_missing_folder(self, tmp_path: Path) -> None:
        assert "no folder" in self.refusal(tmp_path / "missing" / "model.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_folder_that_is_a_file(self, path: Path) -> None:
        self.refusal(path / "model.onnx")
        assert_untouched(path)

    @pytest.mark.parametrize("name", ["x" * 256, "\u00e9" * 128], ids=["1-byte", "2-bytes"])
    def test_name_too_long(self, tmp_path: Path, name: str) -> None:
        self.refusal(tmp_path / name)

    @pytest.mark.parametrize("permitted", [0, os.W_OK, os.X_OK])
    def test_read_only_folder(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, permitted: int
    ) -> None:
        # The superuser may write anywhere, so the answer of the system is played.
        monkeypatch.setattr("os.access", lambda _path, mode: not mode & ~permitted)
        assert "permission" in self.refusal(path)

    def test_source_itself(self, path: Path) -> None:
        assert "the input file itself" in self.refusal(path, source=path)

    @pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
    def test_link_to_the_source(self, path: Path, link: str) -> None:
        other = path.with_name("link.onnx")
        getattr(other, link)(path)
        assert "the input file itself" in self.refusal(other, source=path)
        assert "the input file itself" in self.refusal(path, source=other)

    def test_pipe(self, tmp_path: Path) -> None:
        """Renaming over a pipe or a device (/dev/null) would put a file in its place."""
        path = tmp_path / "pipe"
        os.mkfifo(path)
        self.refusal(path)
        assert path.is_fifo()


def test_temporary_file_lies_beside_the_destination(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename across file systems is no rename."""
    folders: list[object] = []
    mkstemp = tempfile.mkstemp

    def note(**options: str | Path) -> tuple[int, str]:
        folders.append(options.get("dir"))
        return mkstemp(**options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("tempfile.mkstemp", note)
    write_atomically(path, NEW)
    assert folders == [path.parent]


def test_files_are_written_together(path: Path) -> None:
    other = path.with_name("model.json")
    write_together({path: NEW, other: b"{}"})
    assert (path.read_bytes(), other.read_bytes()) == (NEW, b"{}")
    assert sorted(path.parent.iterdir()) == [other, path]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
@pytest.mark.parametrize(
    "existing",
    [{"a.onnx", "z.json"}, {"a.onnx"}, {"z.json"}, set()],
    ids=["both", "the first", "the second", "none"],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_failure_between_two_renames_undoes_the_first(
    error: BaseException,
    existing: set[str],
    links: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, rename = tmp_path / "a.onnx", tmp_path / "z.json", Path.replace
    for name in existing:
        (tmp_path / name).write_bytes(OLD)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
        (tmp_path / name).chmod(0o640)

    def fail_at_the_second(self: Path, target: Path) -> Path:
        if target == second:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_second)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", raises(os_error(errno.EPERM)))
    with pytest.raises(RuntimeFailure if isinstance(error, OSError) else KeyboardInterrupt):
        write_together({first: NEW, second: b"{}"})
    assert {path.name for path in tmp_path.iterdir()} == existing
    for path in tmp_path.iterdir():
        status = path.stat()
        assert path.read_bytes() == OLD
        assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18)
