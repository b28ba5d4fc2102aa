"""`batchflex schedule`: what it prints is taken by a shell as cron starts it, by systemd, and by Kubernetes' own schema."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import jsonschema_rs
import polars as pl
import pytest
import yaml
from hypothesis import given, strategies as st

from batchflex.cli.main import main
from batchflex.core.errors import JobError
from batchflex.schedule import kubernetes
from batchflex.schedule.cron_expression import at, parse
from batchflex.schedule.crontab import Clock, crontab
from batchflex.schedule.launch import Launch, safe_name
from batchflex.schedule.next_times import upcoming
from batchflex.schedule.systemd import units
from batchflex.schedule.zones import differences
from tests.support.command_line import Ended, called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.recorder import Recorder
from tests.unit.schedule.test_next_times import expressions, needs_systemd

AWKWARD = """a b%c$HOME 'd' "e" `f` ü;&#"""
UTC = datetime.UTC
BATCHFLEX = Path(sys.executable).with_name("batchflex")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder whose name has everything that means something to a shell, to cron, to systemd or to YAML."""
    folder = tmp_path / AWKWARD
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"id": "a", "messages": [{"role": "user", "content": "One?"}]}\n')
    return folder


def write_job(folder: Path, endpoint: str) -> None:
    (folder / "job%.toml").write_text(f'[job]\nname = "Nightly.labels"\n{endpoint}\n[input]\npath = "rows.jsonl"\n')


def run(folder: Path, *words: str, verb: str = "schedule", program: Path = BATCHFLEX, **environ: str) -> Ended:
    """The command in this process, as if it had been started in that folder as this program."""
    with contextlib.chdir(folder), mock.patch.object(sys, "argv", [str(program)]):
        return called(verb, *words, env=environ)


def launch(**changes: Any) -> Launch:
    given = {"name": "job", "title": "job", "program": ("/bin/batchflex",), "words": ("run", "/srv/j.toml")}
    return Launch(**{**given, "folder": "/srv", "user": "root", "log": "/srv/job.log", **changes})


# ----------------------------------------------------------------------------------------------------------- crontab


def commands(text: str) -> list[tuple[str, str]]:
    """Fields and command of each line, as cron reads it: a percent sign ends the command unless it is escaped."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"((?:\S+ ){5})(.*)", line) for line in lines]
    assert all(match is not None and not re.search(r"(?<!\\)%", match[2]) for match in found)
    return [(match[1].strip(), match[2].replace(r"\%", "%")) for match in found if match]


def by_cron(command: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "HOME": "/", "LOGNAME": "nobody"}
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd="/", env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_line_runs_as_cron_starts_it(folder: Path, endpoint: CountingEndpoint) -> None:
    write_job(folder, f'[endpoint]\nbase_url = "{endpoint.base_url}"\napi_key_env = "MY_KEY"\n[params]\nmodel = "m"')
    keys = folder / "my keys.env"
    keys.write_text("# the key\nMY_KEY='sk-of-the-file'\n")
    keys.chmod(0o600)
    printed = run(folder, "job%.toml", "--cron", "0 2 * * 1-5", "--env-file", keys.name, "--log-file", "l%.log")
    [(fields, command)] = commands(printed.out)
    assert fields == "0 2 * * 1-5"
    started = by_cron(command)
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    assert pl.read_parquet(folder / "runs/Nightly.labels/results.parquet")["status"].to_list() == ["ok"]
    assert (folder / "l%.log").read_text() == ""

    keys.write_text("")
    assert by_cron(command).returncode == 2
    assert "MY_KEY, which is not set" in (folder / "l%.log").read_text()
    keys.unlink()
    by_cron(command)
    assert "my keys.env" in (folder / "l%.log").read_text()


def test_a_line_is_never_too_long_for_cron() -> None:
    crontab(launch(folder="/" + "x" * 400), at("02:00"), Clock("Etc/UTC", "Etc/UTC"))
    with pytest.raises(JobError, match="more than cron takes"):
        crontab(launch(folder="/" + "x" * 600, log="/" + "x" * 400), at("02:00"), Clock("Etc/UTC", "Etc/UTC"))


def test_times_of_the_machines_zone_are_printed_as_they_are() -> None:
    made = crontab(launch(), at("mon-fri 02:00,14:30"), Clock("UTC", "Etc/UTC"))
    assert [fields for fields, _ in commands(made.files["job.crontab"])] == ["0 2 * * 1-5", "30 14 * * 1-5"]
    assert "Times are those of the machine's zone, Etc/UTC: cron goes by no other.\n" in made.files["job.crontab"]


def test_times_of_a_zone_that_is_always_as_far_away_are_converted() -> None:
    tokyo = Clock("Asia/Tokyo", "Etc/UTC", frozenset((540,)))
    made = crontab(launch(), at("02:00"), tokyo)
    assert commands(made.files["job.crontab"])[0][0] == "0 17 * * *"
    assert "date" not in made.files["job.crontab"]
    assert "meant is Asia/Tokyo" in made.files["job.crontab"]
    kolkata = Clock("Asia/Kolkata", "Etc/UTC", frozenset((330,)))
    assert commands(crontab(launch(), at("02:00"), kolkata).files["job.crontab"])[0][0] == "30 20 * * *"
    with pytest.raises(JobError, match="by less than an hour"):
        crontab(launch(), at("02:00"), Clock("Australia/Lord_Howe", "Etc/UTC", frozenset((630, 660))))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_a_line_for_another_zone_fires_at_its_times_and_at_no_others(zone: str) -> None:
    """Those minutes at which the fields fit are asked of the printed command itself, with ``date`` set to them."""
    here = ZoneInfo(zone)
    chance = random.Random(zone)
    script, expected = [], []
    machine, begin = ZoneInfo("Etc/UTC"), datetime.datetime(2027, 1, 1, tzinfo=UTC)
    clock = Clock(zone, "Etc/UTC", frozenset(differences(here, machine, begin)))
    for text, start in expressions(seed=4, count=12):
        cron = parse(text)
        [(fields, command)] = commands(crontab(launch(), [cron], clock).files["job.crontab"])
        guard = command.partition(" && { ")[0] if " | grep " in command else "true"
        line = parse(fields)
        times = upcoming([cron], here, start, "literal", 8)
        for time in {t.astimezone(UTC) for t in times}:
            assert time.minute in line.minutes and time.hour in line.hours, (text, fields, time)
        fitting = upcoming([line], machine, start, "literal", 200)
        some = set(chance.sample(fitting, 3)) | {t.astimezone(machine) for t in times[:2]}
        for time in sorted(some):
            wall = time.astimezone(here)
            fits = upcoming([cron], here, time - datetime.timedelta(minutes=1), "literal", 1)[:1] == [wall]
            script.append(f"{guard.replace('date +', f'date -d @{time.timestamp():.0f} +')} && echo yes || echo no")
            expected.append("yes" if fits or (guard != "true" and _hour_fits(cron, wall)) else "no")
    said = subprocess.run(["/bin/sh"], input="\n".join(script), capture_output=True, text=True, check=True).stdout
    assert said.split() == expected
    assert {"yes", "no"} == set(expected)


def _hour_fits(cron: Any, wall: datetime.datetime) -> bool:
    """A line with one minute does not ask for it: the field has it."""
    day, weekday = wall.day in cron.days, (wall.weekday() + 1) % 7 in cron.weekdays
    days = (day and weekday) if cron.both else (day or weekday)
    minute = len(cron.minutes) == 1 or wall.minute in cron.minutes
    return minute and wall.hour in cron.hours and wall.month in cron.months and days


def test_a_backslash_is_refused() -> None:
    with pytest.raises(JobError, match="backslash"):
        crontab(launch(folder="/a\\b"), at("02:00"), Clock("Etc/UTC", "Etc/UTC"))


# ----------------------------------------------------------------------------------------------------------- systemd


def verified(*files: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, timeout=60, check=False
    )
    return f"{done.returncode}: {done.stdout}{done.stderr}"


@needs_systemd
@pytest.mark.parametrize(
    "options", [[], ["--log-file", "l%.log"], ["--env-file", "a b.env"], ["--options=-q --set job.out='a $b%'"]]
)
def test_the_units_are_what_systemd_takes(folder: Path, tmp_path: Path, options: list[str]) -> None:
    write_job(folder, '[endpoint]\nname = "flexai"\n[params]\nmodel = "m"')
    (folder / "a b.env").touch(0o600)
    program = tmp_path / "a b%$c ü" / "batchflex"
    program.parent.mkdir()
    program.symlink_to(BATCHFLEX)
    done = run(
        folder, "job%.toml", "--cron", "0 2 1,15 * 1", "--tz", "Europe/Berlin", "--as", "systemd", "--out", "units", *options,
        program=program,
    )  # fmt: skip
    assert (done.code, done.out) == (0, "")
    service, timer = (folder / "units" / f"batchflex-nightly-labels.{kind}" for kind in ("service", "timer"))
    shutil.copy(service, tmp_path)
    shutil.copy(timer, tmp_path)  # from where verify looks for the units that these name
    assert verified(tmp_path / service.name, tmp_path / timer.name) == "0: "
    assert timer.read_text().count("OnCalendar=") == 2
    assert ("LoadCredential=FLEXAI_API_KEY:/etc/batchflex/FLEXAI_API_KEY\n" in service.read_text()) == (
        "--env-file" not in options
    )


@needs_systemd
def test_systemd_reads_back_the_path_of_the_program(tmp_path: Path) -> None:
    program = f"{tmp_path}/no b%c$d ü;&/batchflex"
    made = units(launch(program=(program,)), at("02:00"), "Etc/UTC", "/etc/batchflex")
    for name, text in made.files.items():
        (tmp_path / name).write_text(text)
    assert f"Command {program} is not executable" in verified(tmp_path / "batchflex-job.service")
    with pytest.raises(JobError, match="no program whose path has quotes"):
        units(launch(program=('/a"b/batchflex',)), at("02:00"), "Etc/UTC", "/etc/batchflex")


@needs_systemd
def test_units_of_ones_own_need_no_root(folder: Path, tmp_path: Path) -> None:
    write_job(folder, '[endpoint]\nname = "flexai"\n[params]\nmodel = "m"')
    with mock.patch.dict("os.environ", {"HOME": "/home/alice"}):
        done = run(
            folder, "job%.toml", "--at", "02:00", "--as", "systemd", "--user", "--out", "units", HOME="/home/alice"
        )
    assert (done.code, done.out) == (0, "")
    service, timer = (folder / "units" / f"batchflex-nightly-labels.{kind}" for kind in ("service", "timer"))
    shutil.copy(service, tmp_path)
    shutil.copy(timer, tmp_path)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", tmp_path / service.name, tmp_path / timer.name],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
    text = service.read_text()
    assert "User=" not in text and "network-online" not in text
    assert "LoadCredential=FLEXAI_API_KEY:/home/alice/.config/batchflex/FLEXAI_API_KEY\n" in text
    told = done.err
    assert "systemctl --user daemon-reload && systemctl --user enable --now batchflex-nightly-labels.timer" in told
    assert "loginctl enable-linger" in told and "journalctl --user -u batchflex-nightly-labels" in told
    assert "only you need be able to read it" in told


def test_words_of_a_unit() -> None:
    service = units(
        launch(words=("run", '/a b/c%d"e\\f.toml', "--x=$HOME"), user="alice", keys=("K",)),
        at("02:00"),
        "Etc/UTC",
        "/k%",
    ).files["batchflex-job.service"]
    assert r'ExecStart=:/bin/batchflex run "/a b/c%%d\"e\\f.toml" --x=$HOME' in service.splitlines()
    assert {"User=alice", "LoadCredential=K:/k%%/K", "WorkingDirectory=/srv"} <= set(service.splitlines())


def test_a_service_finds_the_key_where_its_credential_is(folder: Path, endpoint: CountingEndpoint) -> None:
    """And where to tell how it went."""
    write_job(
        folder,
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\napi_key_env = "MY_KEY"\n[params]\nmodel = "m"\n'
        '[notify]\non = ["success"]\nwebhook_env = "MY_HOOK"\nping_env = "MY_PING"\n',
    )
    endpoint.knobs(key="sk-of-systemd")
    unit = run(folder, "job%.toml", "--at", "02:00", "--as", "systemd").out
    names = re.findall(r"^LoadCredential=(\w+):", unit, re.M)
    assert names == ["MY_KEY", "MY_HOOK", "MY_PING"]
    credentials = folder / "credentials"
    credentials.mkdir()
    with Recorder() as recorder:
        for name, secret in zip(names, ("sk-of-systemd", f"{recorder.url}/hook", f"{recorder.url}/ping"), strict=True):
            (credentials / name).write_text(f"{secret}\n")
        environ = {"CREDENTIALS_DIRECTORY": str(credentials), "NO_PROXY": "127.0.0.1"}
        assert run(folder, "job%.toml", "-q", verb="run", **environ) == (0, "", "")
        assert endpoint.stats()["requests"] == 1
        assert sorted(recorder.paths()) == ["/hook", "/ping", "/ping/start"]
        (credentials / "MY_HOOK").unlink()
        (credentials / "MY_HOOK").mkdir()
        done = run(folder, "job%.toml", "-q", verb="run", **environ)
        assert done.code == 0
        assert "not notified by the webhook: the credential " in done.err and "MY_HOOK cannot be read: " in done.err


# -------------------------------------------------------------------------------------------------------- Kubernetes

SCHEMA = json.loads((Path(__file__).parent / "cronjob_schema.json").read_text())


def test_the_manifest_is_one_that_kubernetes_takes(folder: Path) -> None:
    write_job(folder, '[endpoint]\nname = "flexai"\n[params]\nmodel = "m"')
    options = ["--image", "registry.example/batchflex:1", "--options=--set params.stop='$(date) #: \\'"]
    done = run(folder, "job%.toml", "--cron", "0 2 * * 5-7", "--as", "k8s", "--tz", "Europe/Berlin", *options)
    manifest = yaml.safe_load(done.out)
    jsonschema_rs.validator_for(SCHEMA).validate(manifest)
    spec = manifest["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == (
        "0 2 * * 0,5,6",
        "Europe/Berlin",
        "Forbid",
    )
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["restartPolicy"] == "Never"  # as a pod failure policy wants it
    assert container["command"][:3] == ["batchflex", "run", f"{folder}/job%.toml"]
    assert container["command"][4] == "params.stop=$$(date) #: \\"
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == str(folder)
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "nightly-labels", "key": "FLEXAI_API_KEY"}
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(SCHEMA).validate({**manifest, "spec": {**spec, "timezone": "UTC"}})


def test_an_array_of_pods_has_an_index_for_each(folder: Path) -> None:
    write_job(folder, '[endpoint]\nname = "flexai"\n[params]\nmodel = "m"')
    array = ["--shards", "64", "--at-once", "16"]
    done = run(folder, "job%.toml", "--at", "02:00", "--as", "k8s", "--image", "i", *array)
    manifest = yaml.safe_load(done.out)
    jsonschema_rs.validator_for(SCHEMA).validate(manifest)
    spec = manifest["spec"]["jobTemplate"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 64, 16)
    assert "backoffLimit" not in spec and spec["backoffLimitPerIndex"] == 3
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore", "FailIndex"]
    assert spec["template"]["spec"]["containers"][0]["command"][-4:] == array


def test_the_script_of_an_array_runs_each_task(folder: Path, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """As Slurm does: bash, with the number of the task in the environment."""
    write_job(folder, f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[params]\nmodel = "m"\n[limits]\nconcurrency = 4')
    rows = (f'{{"messages": [{{"role": "user", "content": "{n}"}}]}}\n' for n in range(40))
    (folder / "rows.jsonl").write_text("".join(rows))
    (folder / "keys.env").write_text("SOME_KEY=x\n")
    (folder / "keys.env").chmod(0o600)
    options = ["--as", "slurm", "--shards", "3", "--at-once", "2", "--env-file", "keys.env", "--options=--out out"]
    done = run(folder, "job%.toml", *options)
    assert done.code == 0 and "submit: sbatch FILE" in done.err and "next" not in done.err, done
    assert "#SBATCH --array=0-2%2\n" in done.out and "SOME_KEY" not in done.out
    (tmp_path / "script").write_text(done.out)
    for task in range(3):
        environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(task), "HOME": str(tmp_path)}
        subprocess.run(["bash", tmp_path / "script"], env=environment, check=True, timeout=60)
    assert endpoint.stats()["requests"] == 40
    assert "3 of 3 finished" in called("status", folder / "out").out


@pytest.mark.parametrize("of_job", [True, False])
def test_a_cron_job_takes_all_that_a_file_of_variables_has_from_a_secret(of_job: bool, folder: Path) -> None:
    """Which may be missing where the run finds the file itself. No value is shown."""
    write_job(folder, '[endpoint]\nname = "flexai"\n[params]\nmodel = "m"')
    file = folder / (".env" if of_job else "keys.env")
    file.write_text("FLEXAI_API_KEY=sk-of-the-file\nDATA_DIR=/srv\n")
    file.chmod(0o600)
    given = [] if of_job else ["--env-file", "keys.env"]
    done = run(folder, "job%.toml", "--at", "02:00", "--as", "k8s", "--image", "i", *given)
    manifest = yaml.safe_load(done.out)
    jsonschema_rs.validator_for(SCHEMA).validate(manifest)
    container = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "nightly-labels", "optional": of_job}}]
    assert "env" not in container and "sk-of" not in done.out + done.err
    assert "kubectl create secret generic nightly-labels --from-env-file=" in done.err and file.name in done.err


KINDS = [
    ["crontab"],
    ["cron"],
    ["systemd"],
    ["systemd", "--user"],
    ["k8s", "--image", "i"],
    ["kubernetes", "--image", "i"],
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_that_is_named_is_the_one_of_the_job(kind: list[str], folder: Path) -> None:
    write_job(folder, '[log]\nfile = "logs/nightly.log"')
    done = run(folder, "job%.toml", "--at", "02:00", "--as", *kind)
    (named,) = [line for line in done.err.splitlines() if line.startswith("log: ")]
    assert named.startswith(f"log: {folder}/logs/nightly.log (log.file of the job); ")
    given = run(folder, "job%.toml", "--at", "02:00", "--as", *kind, "--options=--log-file other.log")
    assert f"log: {folder}/other.log (log.file of the job)" in given.err


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("*/5 2 * * *", "*/5 2 * * *"),
        ("0 2 */10 * *", "0 2 1,11,21,31 * *"),
        ("0 2 * jan 7", "0 2 * 1 0"),
        ("0 2 1 * mon", "0 2 1 * 1"),
        ("0 2 1-31 * 1", "0 2 * * *"),  # either, so every day
        ("0 2 */1 * 1", "0 2 * * 1"),
        ("@daily", "0 0 * * *"),
    ],
)
def test_an_expression_as_kubernetes_means_it(text: str, schedule: str) -> None:
    assert kubernetes.schedule(parse(text)) == schedule


def test_what_a_cron_job_cannot_say() -> None:
    cluster = kubernetes.Cluster("i", "c", "s")
    with pytest.raises(JobError, match="Kubernetes would take either"):
        kubernetes.schedule(parse("0 2 */2 * 1"))
    with pytest.raises(JobError, match="must have one minute"):
        kubernetes.cron_job(launch(), at("02:00,14:30"), "UTC", cluster)
    with pytest.raises(JobError, match="colon"):
        kubernetes.cron_job(launch(folder="/a:b"), at("02:00"), "UTC", cluster)
    with pytest.raises(JobError, match="--claim 'My Claim' is no name"):
        kubernetes.cron_job(launch(), at("02:00"), "UTC", cluster._replace(claim="My Claim"))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["no", "Null", "y", "1", "~", "-"]
)


@given(words=st.lists(TEXTS, min_size=1), keys=st.lists(TEXTS, max_size=3), names=st.tuples(*[TEXTS] * 6))
def test_yaml_reads_back_what_was_written(words: list[str], keys: list[str], names: tuple[str, ...]) -> None:
    name, folder, zone, image, claim, secret = names
    job = launch(name=name, words=tuple(words), folder=folder, keys=tuple(keys))
    read = yaml.safe_load(kubernetes.manifest(job, "0 2 * * *", zone, kubernetes.Cluster(image, claim, secret)))
    spec = read["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert (read["metadata"]["name"], read["spec"]["timeZone"], container["image"]) == (name, zone, image)
    assert container["command"] == ["batchflex", *(word.replace("$(", "$$(") for word in words)]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == folder
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    refs = [(each["name"], each["valueFrom"]["secretKeyRef"]) for each in container.get("env", [])]
    assert refs == [(key, {"name": secret, "key": key}) for key in keys]


# ------------------------------------------------------------------------------------------------- the command itself


def test_what_is_told_beside_it(folder: Path) -> None:
    write_job(folder, '[endpoint]\nname = "flexai"\n[params]\nmodel = "m"')
    done = run(folder, "job%.toml", "--at", "02:00")
    told = done.err.splitlines()
    assert told[0].startswith("next, in ")
    assert len([line for line in told if re.fullmatch(r"  \w{3} \d{4}-\d\d-\d\d 02:00 [+-]\d{4}", line)]) == 5
    assert any(line.startswith("log: ") and line.endswith("nightly-labels.log") for line in told)
    assert any("FLEXAI_API_KEY=" in line and "--env-file" in line for line in told)
    as_json = json.loads(run(folder, "job%.toml", "--at", "02:00", "--json").out)
    assert as_json["files"]["nightly-labels.crontab"] == done.out
    assert len(as_json["next"]) == 5


def test_a_key_that_the_run_finds_by_itself_is_not_handed_to_it(folder: Path) -> None:
    write_job(folder, '[endpoint]\nname = "flexai"\n[params]\nmodel = "m"')
    (folder / ".env").write_text("FLEXAI_API_KEY=sk-of-the-file\n")
    (folder / ".env").chmod(0o600)
    for kind in (["systemd"], ["k8s", "--image", "i"], ["crontab"]):
        done = run(folder, "job%.toml", "--at", "02:00", "--as", *kind)
        assert "FLEXAI_API_KEY" not in done.out
        assert f"key: the run finds it in {folder}/.env" in done.err.splitlines()
        assert "sk-of" not in done.out + done.err
    assert "LoadCredential" in run(folder, "job%.toml", "--at", "02:00", "--as", "systemd", "--keys", "/k").out
    assert (
        "secretKeyRef" in run(folder, "job%.toml", "--at", "02:00", "--as", "k8s", "--image", "i", "--secret", "s").out
    )


def test_without_a_command_of_its_own_it_is_started_through_python(folder: Path) -> None:
    write_job(folder, "")
    command = [sys.executable, "-m", "batchflex", "schedule", "job%.toml", "--at", "02:00"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert f" && {sys.executable} -m batchflex run " in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["job%.toml"], "needs --at TIMES"),
        (["job%.toml", "--at", "02:00", "--shards", "2"], "--shards needs --as k8s or --as slurm"),
        (["job%.toml", "--at", "02:00", "--as", "slurm", "--shards", "2"], "--at needs --as crontab"),
        (["job%.toml", "--as", "slurm"], "--as slurm needs --shards N"),
        (["job%.toml", "--as", "slurm", "--shards", "2", "--at-once", "3"], "--at-once 3 needs --shards N"),
        (["job%.toml", "--as", "slurm", "--shards", "2", "--options=--out s3://b/x"], "not for a bucket"),
        (["job%.toml", "--at", "02:00", "--cron", "@daily"], "not allowed with argument"),
        (["job%.toml", "--at", "25:00"], "'25:00' is no time of the day"),
        (["job%.toml", "--cron", "0 0 30 2 *"], "never comes"),
        (["job%.toml", "--at", "02:00", "--tz", "Europe/Berlim"], "did you mean Europe/Berlin"),
        (["rows.jsonl", "--at", "02:00"], "schedule takes a job file"),
        (["job%.tml", "--at", "02:00"], "found 'job%.tml'; did you mean job%.toml?"),
        (["none.toml", "--at", "02:00"], "there is no job file none.toml"),
        (["job%.toml", "--at", "02:00", "--as", "k8s"], "needs --image"),
        (["job%.toml", "--at", "02:00", "--image", "x"], "--image needs --as k8s"),
        (["job%.toml", "--at", "02:00", "--keys", "/k"], "--keys needs --as systemd"),
        (["job%.toml", "--at", "02:00", "--user"], "--user needs --as systemd"),
        (["job%.toml", "--at", "02:00", "--as", "crontap"], "did you mean crontab?"),
        (["job%.toml", "--at", "02:00", "--options=--dedline 5h"], "did you mean --deadline"),
        (["job%.toml", "--at", "02:00", "--options=--rpm many"], "limits.rpm"),
        (["job%.toml", "--at", "02:00", "--options='"], "--options"),
        (["job%.toml", "--at", "02:00", "--env-file", "none.env"], "none.env: there is no such file"),
        (["job%.toml", "--at", "02:00", "--env-file", "open.env"], "others than its owner may read it"),
        (["job%.toml", "--at", "02:00", "--log-file", "a\nb"], "characters that cannot stand in a schedule"),
        (["job%.toml", "--at", "02:00", "--out", "rows.jsonl"], "cannot be written to rows.jsonl"),
    ],
)
def test_mistakes_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    write_job(folder, "")
    (folder / "open.env").touch()
    (folder / "open.env").chmod(0o644)
    monkeypatch.chdir(folder)
    try:
        code: object = main(["schedule", *words])
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert told in printed.err


def test_names_of_what_is_installed() -> None:
    assert safe_name("Nightly labels (ü) v2.1") == "nightly-labels-v2-1"
    assert safe_name("日本") == "job"
    assert len(safe_name("x" * 100)) == 40
