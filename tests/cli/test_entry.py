"""What holds for every command: help, exit codes, one-line errors, quick starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from s3vfs import errors
from s3vfs.cli import COMMANDS, EXIT_CODES, explain, main
from s3vfs.cli.mount_options import OPTIONS
from s3vfs.errors import S3vfsError, StoreDenied, Unpublished
from tests.cli.command import command_line, s3vfs

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("command", [*COMMANDS, "mount-helper"])
def test_every_command_shows_help_with_examples_and_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:\n  " in shown
    assert "exit codes:\n" in shown


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("s3vfs 0.")


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["nonsense"], ["mount"], ["format", "file:///x", "--quota=much"], ["--colour"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
    assert "unreadable size 'much'" in capsys.readouterr().err


def all_errors(kind: type[S3vfsError] = S3vfsError) -> set[type[S3vfsError]]:
    return {kind} | {found for child in kind.__subclasses__() for found in all_errors(child)}


def test_every_exit_code_is_documented() -> None:
    assert errors.UsageError in all_errors()
    for kind in all_errors():
        code = kind.__dict__.get("exit_code", 1)
        if isinstance(code, int):
            assert f"  {code}  " in EXIT_CODES, kind
            assert f"\n| {code} |" in OPERATIONS, kind


def test_every_mount_option_is_documented() -> None:
    for option in OPTIONS:
        assert option.flag in OPERATIONS


def test_a_group_of_errors_is_told_as_the_one_that_matters() -> None:
    denied = StoreDenied("no", hint="ask")
    assert explain(ExceptionGroup("", [denied, OSError(5, "disk")])) == ("no: ask", 4)
    assert explain(ExceptionGroup("", [ExceptionGroup("", [Unpublished("left")])])) == ("left", 10)
    assert explain(BaseExceptionGroup("", [KeyboardInterrupt(), denied])) == ("interrupted", 130)
    line, code = explain(ExceptionGroup("", [denied, ValueError("odd\nvalue")]))
    assert (code, line.count("\n")) == (1, 0)
    assert "ValueError: odd value" in line


def test_a_process_ends_with_the_code_and_the_line() -> None:
    done = subprocess.run(command_line(["status", "file:///nonexistent-place"]), capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("s3vfs: no directory /nonexistent-place")


def test_verbose_adds_the_traceback_and_keeps_the_code() -> None:
    done = s3vfs("-v", "status", "file:///nonexistent-place")
    assert done.code == 3
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("s3vfs: ")
    s3vfs("status", "file:///nonexistent-place").fails(3, "/nonexistent-place")


def test_a_reader_that_goes_away_is_no_error() -> None:
    shell = f"{sys.executable} -m s3vfs --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def imported_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_no_store_and_no_trio() -> None:
    asked = "from s3vfs.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not imported_by(asked) & {"trio", "lmdb", "botocore", "aiobotocore", "obstore", "pyfuse3", "msgspec"}


def test_file_urls_never_import_the_s3_libraries(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/volume"
    loaded = imported_by(f"from s3vfs.cli import main\nassert main(['format', '{url}']) == 0")
    assert "lmdb" in loaded or "trio" in loaded
    assert not loaded & {"botocore", "aiobotocore", "obstore"}
    daemon = imported_by("import s3vfs.fuse.daemon")
    assert "pyfuse3" in daemon
    assert not daemon & {"botocore", "aiobotocore", "obstore"}
