"""The examples of docs/operations.md are what the tools they are for can read."""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from secbatch.errors import EXIT_FAILURE, EXIT_HELD, EXIT_INTERRUPTED, EXIT_OK, EXIT_REJECTS, EXIT_USAGE
from secbatch.metrics import STATES
from secbatch.run_record import COUNTS
from secbatch.stages import STAGES

TEXT = (Path(__file__).parents[1] / "docs/operations.md").read_text(encoding="utf-8")


def block(first_line: str) -> str:
    """The fenced example that starts with `first_line`."""
    found = [code for code in re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL) if code.startswith(first_line + "\n")]
    assert len(found) == 1, first_line
    return str(found[0])


def test_crontab() -> None:
    line = block("# /etc/cron.d/secbatch").splitlines()[-1]
    *times, user, command = line.split(maxsplit=6)
    assert times == ["0", "2", "*", "*", "*"] and user == "secbatch"
    assert "%" not in command  # cron would make a line end of it
    subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("kind", ["service", "timer"])
def test_systemd_units(kind: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    for name in ("service", "timer"):
        unit = block(f"# /etc/systemd/system/secbatch-nightly.{name}")
        # `verify` wants a program that is there; the rest of the line stays as it is.
        unit = unit.replace("/opt/secbatch/bin/secbatch", "/bin/true")
        (tmp_path / f"secbatch-nightly.{name}").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / f"secbatch-nightly.{kind}")], capture_output=True, text=True
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "secbatch-nightly" in line]
    assert not complaints


def test_folders_that_the_examples_write_to_are_made() -> None:
    (made,) = re.findall(r"^install -d -o secbatch (.+)$", TEXT, re.MULTILINE)
    for first_line in ("# /etc/cron.d/secbatch", "# /etc/systemd/system/secbatch-nightly.service"):
        written = re.findall(
            r"(?:2>> |--metrics-file |cd |WorkingDirectory=|ReadWritePaths=)(/[^ \n]+)", block(first_line)
        )
        for path in written:
            assert any(path == folder or path.startswith(f"{folder}/") for folder in made.split()), path
    assert "HF_HOME=/srv/models" in TEXT and "/srv/models" in made.split()


def test_logs_are_read_beside_lines_of_systemd() -> None:
    if not shutil.which("jq"):
        pytest.skip("jq is not on this machine")
    (command,) = re.findall(r"`journalctl -u\s+secbatch-nightly -o cat \| ([^`]+)`", TEXT)
    lines = 'Starting secbatch-nightly.service - Nightly enrichment of security reports...\n{"event": "start"}\n'
    done = subprocess.run(["bash", "-c", command], input=lines, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"event": "start"}


def test_code_for_a_gpu_is_kept_where_the_examples_may_write() -> None:
    unit = block("# /etc/systemd/system/secbatch-nightly.service")
    (writable,), (folder,) = (
        re.findall(rf"^{key}=(.+)$", unit, re.MULTILINE) for key in ("ReadWritePaths", "Environment=TRITON_CACHE_DIR")
    )
    assert "ProtectHome=read-only" in unit and any(folder.startswith(f"{path}/") for path in writable.split())
    cron, _ = yaml.safe_load_all(block("# secbatch-nightly.yaml"))
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    folder = {one["name"]: one["value"] for one in container["env"]}["TRITON_CACHE_DIR"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert any(folder.startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"])


def test_airflow_and_its_shell() -> None:
    tree = ast.parse(block("# dags/secbatch_nightly.py"))
    commands = [
        k.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for k in call.keywords
        if k.arg == "bash_command"
    ]
    assert len(commands) == 1 and isinstance(commands[0], ast.Constant)
    subprocess.run(["bash", "-n", "-c", str(commands[0].value)], check=True)
    assert re.search(r"^\s*/opt/secbatch/bin/secbatch run ", str(commands[0].value), re.MULTILINE)  # as installed above


def test_kubernetes() -> None:
    cron, claim = yaml.safe_load_all(block("# secbatch-nightly.yaml"))
    job = cron["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    rule = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert rule["containerName"] == container["name"] and rule["values"] == [EXIT_USAGE, EXIT_REJECTS]
    assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys() == {"cpu", "memory"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_alerts_use_metrics_that_are_described() -> None:
    rules = yaml.safe_load(block("# prometheus rules"))["groups"][0]["rules"]
    described = set(re.findall(r"secbatch_\w+", TEXT.partition("## Metrics")[2].partition("## Reading")[0]))
    for rule in rules:
        assert rule["alert"] and rule["annotations"]["summary"] and rule["labels"]["severity"]
        used = set(re.findall(r"secbatch_\w+", rule["expr"]))
        assert used and used <= described


def test_log_rotation_is_one_block() -> None:
    text = block("# /etc/logrotate.d/secbatch")
    assert text.count("{") == text.count("}") == 1


@pytest.mark.parametrize("rejected", [True, False])
def test_old_run_files_and_rejects_are_removed_and_nothing_else(tmp_path: Path, rejected: bool) -> None:
    (command,) = re.findall(r"`+(?:sh\n)?((?:cd|find)\s+OUT/_secbatch[^`]* -delete)", TEXT)
    kept = ["runs/latest.json", "runs/new.json", "parts/old.parquet", "ledger.sqlite"]
    old = ["runs/old.json", "rejects/old.parquet"] if rejected else ["runs/old.json"]
    for name in (*kept, *old):
        path = tmp_path / "OUT/_secbatch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if "new" not in name:
            os.utime(path, (0, 0))
    subprocess.run(["bash", "-c", " ".join(command.split())], cwd=tmp_path, check=True)
    left = {str(path.relative_to(tmp_path / "OUT/_secbatch")) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)


def test_every_count_stage_state_and_exit_code_is_described() -> None:
    for name in (*COUNTS, *STAGES, *STATES):
        assert f"`{name}`" in TEXT or f" {name}" in TEXT, name
    table = TEXT.partition("## Reading exit codes")[2]
    for code in (EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_REJECTS, EXIT_HELD, EXIT_INTERRUPTED):
        assert f"| {code} |" in table
