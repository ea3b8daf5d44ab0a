"What `mlw schedule` writes, held against the ones who read it: cron itself, systemd, Kubernetes' and GitHub's schemas, Jinja and bash."
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import nbformat
import pytest
import yaml

from mlops_workbench.core.errors import InputError, ParameterError
from mlops_workbench.core.settings import read_settings
from mlops_workbench.jobs.cron import parse_cron
from mlops_workbench.jobs.schedule import TARGETS, plan_schedule, schedule_text, write_schedule

AWKWARD = {"text": """it's "50%" of $HOME and ${HOME}, $(id) and `id`, \\n \\ {{ x }} {% y %} {# z #} ${{ secrets.A }} $(HOME) %d %% $$ é 中""", "lines": "oné\ntwo\r\nthree\tend ", "word": "-x=1", "script": "run.sh", "number": 1.5,
           "names": ["a b", 'c"d', "e%f"], "flag": True, "nothing": None}
PARAMETERS = """text: str = ""
lines: str = ""
word: str = ""
script: str = ""
number: float = 0.0   # any
names: list[str] = []
flag: bool = False
nothing: str | None = "x"
"""
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def project_in(root: Path, name="nightly reports"):
    (root / "jobs").mkdir(parents=True)
    (root / "settings.ini").write_text(f"[project]\nname = {name}\n[wandb]\nmode = disabled\n")
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("import os\nprint(repr(text), os.environ.get('TOKEN_FOR_TEST', 'no token'))")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "jobs" / "hello.ipynb")
    return read_settings(root)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    "A project whose folder has an awkward name."
    return project_in(tmp_path_factory.mktemp("schedule") / "it's 100% $HOME {{x}}" / "project")


# ---- cron in earnest: started before everything else, looked at in the last test, since it waits for the next minute ----

@pytest.fixture(scope="module")
def real_cron(settings):
    "A cron daemon of our own, in a mount namespace where the machine's crontabs are hidden, and the crontab it was given."
    if not shutil.which("cron") or not shutil.which("unshare") or os.getuid(): return "it needs Debian's cron, unshare and root"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode: return "this container allows no mount namespace"
    os.environ["XDG_CONFIG_HOME"] = str(settings.root / "config")
    try: written = write_schedule("hello", "* * * * *", to="cron", settings=settings, parameters=AWKWARD, name="each-minute", secrets=["TOKEN_FOR_TEST"])
    finally: del os.environ["XDG_CONFIG_HOME"]
    (settings.root / "config" / "mlw").mkdir(parents=True)
    (settings.root / "config" / "mlw" / "nightly-reports.env").write_text("TOKEN_FOR_TEST='a long token of ours'\n")
    spool = settings.root / "spool"
    (spool / "crontabs").mkdir(parents=True)
    shutil.copyfile(next(f for f in written.files if f.suffix == ".cron"), spool / "crontabs" / "root")
    (spool / "crontabs" / "root").chmod(0o600)
    hide = "for place in /etc/cron.d /run; do mount -t tmpfs none $place; done; : > /run/crontab; mount --bind /run/crontab /etc/crontab 2>/dev/null; mount --bind \"$0\" /var/spool/cron && exec cron -f"
    return subprocess.Popen(["unshare", "--mount", "sh", "-c", hide, str(spool)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module", autouse=True)
def ended(real_cron):
    yield
    if isinstance(real_cron, subprocess.Popen):
        real_cron.terminate()
        real_cron.wait(30)


# ---- expressions ----

EXPRESSIONS = ["* * * * *", "*/15 * * * *", "0 4 * * *", "30 4 * * MON-FRI", "0 0 * * 7", "0 0 * * SUN,WED", "5,35 8-18/2 * * 1-5", "0 0 1 * *", "0 9 13 * 5", "0 0 1,15 * MON", "0 12 29 2 *", "0 0 31 * *",
               "0 0 31 2 FRI", "15 3 1-7 JAN-MAR,JUL *", "0 0 1 1 *", "59 23 28-31 12 *", "0 */6 * * *", "7-9,20 1,2,3 * */2 *", "0 0 1-31/2 * *", "0 0 * * 1-5", "@hourly", "@weekly", "@monthly", "@yearly", "@daily", "0 0 10-20 * 0,6"]


def a_random_expression(seed):
    draw = random.Random(seed)
    def part(low, high, full=0.4):
        if draw.random() < full: return "*"
        terms = [f"{a}-{draw.randint(a, high)}" + (f"/{draw.randint(1, 5)}" if draw.random() < 0.5 else "") if draw.random() < 0.5 else str(a) for a in draw.sample(range(low, high + 1), draw.randint(1, 3))]
        return ",".join(terms)
    return f"{part(0, 59, 0.1)} {part(0, 23, 0.3)} {part(1, 28)} {part(1, 12, 0.6)} {part(0, 6)}"


RANDOM = [a_random_expression(seed) for seed in range(25)]


def calendar_times(line, after, count):
    said = subprocess.run(["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={after:%Y-%m-%d %H:%M:%S UTC}", line], capture_output=True, text=True, check=True, env=os.environ | {"TZ": "UTC", "LC_ALL": "C"}).stdout
    found = re.findall(r"(?:Next elapse|Iter(?:ation|\.) #\d+|\(in UTC\)): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", said)
    return [datetime.fromisoformat(t).replace(tzinfo=UTC) for t in found]


@needs_systemd
@pytest.mark.parametrize("expression", EXPRESSIONS + RANDOM)
def test_systemd_fires_when_cron_does(expression):
    cron, after = parse_cron(expression), datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
    ours = [t.astimezone(UTC) for t in cron.next(4, after=after)]
    theirs = sorted({t for line in cron.on_calendar("UTC") for t in calendar_times(line, after, 4)})[:4]
    assert theirs == ours, cron.on_calendar("UTC")


@needs_systemd
def test_systemd_fires_when_cron_does_in_a_time_zone():
    cron, after = parse_cron("30 4,16 * 3,10 *"), datetime(2027, 3, 26, tzinfo=UTC)   # over the change of clocks on 28 March
    ours = [t.astimezone(UTC) for t in cron.next(6, zone="Europe/Berlin", after=after)]
    assert calendar_times(cron.on_calendar("Europe/Berlin")[0], after, 6) == ours
    assert ours[0].hour == 3 and ours[-1].hour == 14   # winter and summer time


@pytest.mark.parametrize("expression", EXPRESSIONS + RANDOM)
def test_airflows_library_reads_the_written_form_alike(expression):
    croniter = pytest.importorskip("croniter").croniter
    cron, after = parse_cron(expression), datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
    theirs = croniter(cron.text, after)
    assert [theirs.get_next(datetime) for _ in range(5)] == cron.next(5, after=after)


def test_the_written_form_means_what_was_given():
    from cronsim import CronSim
    after = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
    for expression in EXPRESSIONS + RANDOM:
        if expression.startswith("@"): continue
        cron, sim = parse_cron(expression), CronSim(expression, after)
        assert [next(sim) for _ in range(8)] == cron.next(8, after=after), expression
        assert parse_cron(cron.text) == cron


@pytest.mark.parametrize(("expression", "says"), [
    ("0 0 31 2 *", "never due"), ("0 0 31 4,6,9,11 *", "never due"), ("0 0 30 FEB *", "never due"), ("0 30 4 * * *", "6 fields, not 5"), ("", "0 fields"), ("0 4 * *", "4 fields"), ("60 * * * *", "minute is '60'"),
    ("* 24 * * *", "hour is '24'"), ("* * 0 * *", "day of month is '0'"), ("* * * 13 *", "month is '13'"), ("* * * * 8", "day of week is '8'"), ("* * * * FRI-MON", "day of week is 'FRI-MON'"), ("*/0 * * * *", "minute is '*/0'"),
    ("5/10 * * * *", "write 5-59/10"), ("* * L * *", "day of month is 'L'"), ("* * * * 5#2", "day of week is '5#2'"), ("* * * * 5L", "day of week is '5L'"), ("* * ? * *", "day of month is '?'"), ("a b c d e", "minute is 'a'"),
    ("1,,2 * * * *", "minute is '1,,2'"), ("@dayly", "did you mean '@daily'"), ("0 0 */2 * MON", "1-31/2 for either"), ("0 0 1 * */2", "0-6/2 for either"), ("-5 * * * *", "minute is '-5'"), ("٣ * * * *", "minute is")])
def test_a_wrong_expression_is_one_clear_error(expression, says):
    with pytest.raises(ParameterError, match=re.escape(says)) as caught: parse_cron(expression)
    assert caught.value.fields == {} and "remedy:" in str(caught.value) and "cron expression" in caught.value.where


# ---- what each target makes of the parameters ----

def as_given(words):
    "The values that `mlw run` would resolve from a command line."
    from mlops_workbench.jobs.parameters import load_notebook, read_parameters, resolve
    texts = [words[i + 1] for i, w in enumerate(words[:-1]) if w == "-p"]
    notebook = Path(words[words.index("-C") + 1]) / "jobs" / "hello.ipynb" if "-C" in words else None
    parameters = read_parameters(load_notebook(notebook)) if notebook and notebook.exists() else None
    return texts, (resolve(parameters, texts) if parameters else None)


def recorded_by(shell_text, folder, *, shell="bash"):
    "The words a stand-in for `mlw` was called with when the shell ran the text."
    fake = folder / "mlw"
    fake.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$MLW_CALLED"\nexit 5\n')
    fake.chmod(0o755)
    called = folder / "called"
    done = subprocess.run([shell, "-c", shell_text], env={"PATH": f"{folder}:/usr/bin:/bin", "MLW_CALLED": str(called), "HOME": "/nowhere"}, capture_output=True, text=True)
    return called.read_bytes().decode().split("\0")[:-1], done.returncode


def expected(settings, to, **options):
    plan = plan_schedule("hello", "30 4 * * *", to=to, settings=settings, parameters=AWKWARD, **options)
    return plan, plan.arguments


def test_cron_passes_every_value_whole(settings, tmp_path):
    plan, words = expected(settings, "cron", mlw=str(tmp_path / "mlw"), timeout=90, cell_timeout=30, retry=False, overlap="queue")
    files = schedule_text(plan)
    script = settings.root / f"schedules/{plan.name}.sh"
    script.parent.mkdir(exist_ok=True)
    script.write_text(files[f"schedules/{plan.name}.sh"], newline="\n")
    script.chmod(0o755)
    line = files[f"schedules/{plan.name}.cron"].rstrip("\n")
    assert "\n" not in line and line.startswith("30 4 * * * ")
    command = re.sub(r"\\%", "%", line.split(" ", 5)[5])   # as cron does
    assert not re.search(r"(?<!\\)%", line.split(" ", 5)[5])
    called, status = recorded_by(command, tmp_path, shell="sh")
    assert called == words and status == 5   # the exit status is that of mlw
    assert as_given(called)[1] == AWKWARD
    assert [w for w in called[-7:]] == ["--timeout", "90", "--cell-timeout", "30", "--no-retry", "--overlap", "queue"]


@needs_systemd
def test_systemd_passes_every_value_whole(settings, tmp_path):
    plan, words = expected(settings, "systemd", mlw="/bin/true", secrets=["DB_PASSWORD"], store="s3://bucket/a%b", log="/tmp/a log%.txt")
    for name, text in schedule_text(plan).items(): (tmp_path / Path(name).name).write_text(text)
    units = [str(tmp_path / f"{plan.name}.{kind}") for kind in ("service", "timer")]
    verified = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert verified.returncode == 0 and not verified.stderr.strip(), verified.stderr
    service, timer = (Path(u).read_text() for u in units)
    assert "Persistent=true" in timer and "OnCalendar=*-*-* 04:30:00 " in timer and "EnvironmentFile=" in service and "DB_PASSWORD" in service
    assert 'Environment="MLW_STORE=s3://bucket/a%%b"' in service and "append:/tmp/a log%%.txt" in service
    loaded = as_systemd_loads_it(tmp_path, plan.name)
    if loaded is None: pytest.skip("this machine has no systemd binary to load the unit")
    assert loaded == ["/bin/true", *words]


def as_systemd_loads_it(folder, name):
    "The command line of the service as systemd itself holds it, unquoted."
    manager = next((p for p in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(p)), None)
    if manager is None: return None
    for target in ("basic", "default", "shutdown"): (folder / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n" + (f"Wants={name}.service\n" if target == "default" else ""))
    runtime, units = Path("/tmp") / f"mlw-systemd-{os.getpid()}", Path("/tmp") / f"mlw-units-{os.getpid()}"
    runtime.mkdir(mode=0o700)
    shutil.copytree(folder, units, ignore=shutil.ignore_patterns("mlw", "called"))   # another user has to read it
    command = [manager, "--test", "--user", "--unit=default.target"]
    if not os.getuid():
        shutil.chown(runtime, "nobody")
        units.chmod(0o755)
        command = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", *command]
    try: said = subprocess.run(command, capture_output=True, env={"XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_UNIT_PATH": f"{units}:", "HOME": str(runtime), "PATH": "/usr/bin:/bin"}, timeout=60).stdout.decode("utf-8", "replace")
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
        shutil.rmtree(units, ignore_errors=True)
    line = re.search(r"Command Line: (.*)", said)
    if not line: return None
    words = []
    for quoted, bare in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line[1]):
        word = bare or re.sub(r"\\(x[0-9a-f]{2}|.)", lambda m: {"n": "\n", "t": "\t", "r": "\r"}.get(m[1], chr(int(m[1][1:], 16)) if len(m[1]) > 1 else m[1]), quoted)
        words.append(word.replace("$$", "$"))   # which it does when it starts the command
    return words


def kubernetes_expands(text):
    "What Kubernetes makes of a container's argument: $(NAME) is a variable, $$ is a dollar."
    return re.sub(r"\$(\$|\(([^)]*)\))", lambda m: "$" if m[1] == "$" else f"<{m[2]}>", text)


@pytest.mark.parametrize(("overlap", "policy"), [("skip", "Forbid"), ("replace", "Replace"), ("queue", "Allow"), ("allow", "Allow")])
def test_kubernetes_takes_the_manifest(settings, overlap, policy):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    plan, words = expected(settings, "kubernetes", image="registry.example.com/reports:1", claim="reports", secrets=["DB_PASSWORD", "TOKEN"], timezone="Europe/Berlin", overlap=overlap, cpu="500m", memory="4Gi", timeout=600)
    manifest = yaml.safe_load(next(iter(schedule_text(plan).values())))
    kubernetes_validate.validate(manifest, "1.33", strict=True)
    spec = manifest["spec"]
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert [container["command"][0], *map(kubernetes_expands, container["args"])] == ["mlw", *words]
    assert (spec["concurrencyPolicy"], spec["timeZone"], spec["jobTemplate"]["spec"]["backoffLimit"], pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == (policy, "Europe/Berlin", 0, "Never", 30)
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": plan.name, "key": "DB_PASSWORD"} and container["volumeMounts"][0]["mountPath"] == "/project/store"
    with pytest.raises(kubernetes_validate.ValidationError): kubernetes_validate.validate(manifest | {"spec": spec | {"concurrencyPolicy": 3}}, "1.33", strict=True)


def test_kubernetes_wants_its_own_sunday(settings):
    plan = plan_schedule("hello", "0 0 * * 5-7", to="kubernetes", settings=settings, image="x", claim="y")
    assert plan.cron.text == "0 0 * * 0,5,6"


def test_github_takes_the_workflow(settings, tmp_path):
    vendored = pytest.importorskip("check_jsonschema.builtin_schemas")
    import jsonschema
    plan, words = expected(settings, "github", store="s3://bucket/store", secrets=["AWS_SECRET_ACCESS_KEY"], timezone="Europe/Berlin", overlap="replace")
    flow = yaml.safe_load(next(iter(schedule_text(plan).values())))
    schema = vendored.get_builtin_schema("vendor.github-workflows")
    jsonschema.Draft7Validator(schema).validate(flow)
    with pytest.raises(jsonschema.ValidationError): jsonschema.Draft7Validator(schema).validate(flow | {"on": {"schedule": [{"when": "now"}]}})
    step = flow["jobs"]["run"]["steps"][-1]
    assert flow["on"]["schedule"] == [{"cron": "30 4 * * *", "timezone": "Europe/Berlin"}] and flow["concurrency"]["cancel-in-progress"] is True
    assert step["env"] == {"AWS_SECRET_ACCESS_KEY": "${{ secrets.AWS_SECRET_ACCESS_KEY }}", "MLW_STORE": "s3://bucket/store"}
    assert "${{" not in step["run"]   # GitHub has nothing to fill in
    called, status = recorded_by(step["run"], tmp_path)
    assert called == words and status == 5
    assert called[called.index("-C") + 1] == "."


@pytest.mark.parametrize("major", [2, 3])
def test_airflow_takes_the_dag(settings, tmp_path, monkeypatch, major):
    jinja2 = pytest.importorskip("jinja2")
    made = {}
    class DAG:
        def __init__(self, dag_id, *, description, schedule, start_date, catchup, max_active_runs, default_args, tags): made["dag"] = locals()
        def __enter__(self): return self
        def __exit__(self, *_): pass
    class BashOperator:
        def __init__(self, *, task_id, bash_command): made["task"] = (task_id, bash_command)
    def module(name, **names):
        made_module = types.ModuleType(name)
        made_module.__dict__.update(names)
        monkeypatch.setitem(sys.modules, name, made_module)
    module("pendulum", datetime=lambda *a, tz: datetime(*a, tzinfo=ZoneInfo(tz)))
    if major == 2: (module("airflow", DAG=DAG), module("airflow.operators"), module("airflow.operators.bash", BashOperator=BashOperator))
    else:
        module("airflow", __path__=[])
        module("airflow.sdk", DAG=DAG)
        for name in ("airflow.providers", "airflow.providers.standard", "airflow.providers.standard.operators"): module(name, __path__=[])
        module("airflow.providers.standard.operators.bash", BashOperator=BashOperator)
    plan, words = expected(settings, "airflow", mlw=str(tmp_path / "mlw"), secrets=["HOME"], timezone="Europe/Berlin", overlap="queue")
    text = next(iter(schedule_text(plan).values()))
    exec(compile(text, "dag.py", "exec"), {"__name__": "dag"})
    dag, (_, command) = made["dag"], made["task"]
    assert (dag["dag_id"], dag["schedule"], dag["catchup"], dag["max_active_runs"], dag["default_args"]) == (plan.name, "30 4 * * *", False, 1, {"retries": 0})
    assert dag["start_date"].tzinfo == ZoneInfo("Europe/Berlin") and dag["start_date"] <= datetime.now(UTC) + timedelta(hours=1)
    rendered = jinja2.Environment().from_string(command).render()
    assert not command.endswith(".sh")   # Airflow would take it for a file
    called, status = recorded_by(rendered, tmp_path)
    assert called == words and status == 5


def test_a_secret_that_is_missing_stops_the_command_before_the_run(settings, tmp_path):
    plan, _ = expected(settings, "airflow", mlw=str(tmp_path / "mlw"), secrets=["NOT_THERE"])
    command = re.search(r"bash_command=(.*),\n", next(iter(schedule_text(plan).values())))[1]
    done = subprocess.run(["bash", "-c", eval(command)], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode and "NOT_THERE: set it in the environment" in done.stderr


# ---- what is refused ----

@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(("options", "says"), [
    ({"parameters": {"nubmer": 1}}, "did you mean 'number'"), ({"parameters": ["number=many"]}, "should be a number"), ({"timezone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"), ({"overlap": "wait"}, "no overlap policy 'wait'"),
    ({"secrets": ["TOKEN=abc123"]}, "write the name only"), ({"name": "%%%"}, "is no name"), ({"colour": "red"}, "unknown option 'colour'"), ({"parameters": {"text": "ghp_" + "a" * 36}}, "holds a secret"), ({"parameters": {"text": "a\0b"}}, "NUL")])
def test_a_mistake_is_found_when_it_is_written(settings, to, options, says):
    more = {"image": "x", "claim": "y"} if to == "kubernetes" else {"store": "s3://b/s"} if to == "github" else {}
    with pytest.raises(ParameterError, match=re.escape(says)) as caught: plan_schedule("hello", "@daily", to=to, settings=settings, **more, **options)
    assert "abc123" not in str(caught.value) and "ghp_" not in str(caught.value)


def test_a_store_that_would_be_thrown_away_is_refused(settings):
    with pytest.raises(ParameterError, match="thrown away with the container"): plan_schedule("hello", "@daily", to="kubernetes", settings=settings, image="x")
    with pytest.raises(ParameterError, match="throws away"): plan_schedule("hello", "@daily", to="github", settings=settings)


@pytest.mark.parametrize("expression", ["* * * * *", "0,3 * * * *", "59 23 * * *,", "0-59/4 * * * *", "0,58 0,23 * * *"])
def test_github_starts_nothing_more_often_than_every_five_minutes(settings, expression):
    with pytest.raises(ParameterError, match="every 5 minutes at most|minute is|day of week"): plan_schedule("hello", expression, to="github", settings=settings, store="s3://b/s")


def test_overlap_comes_from_the_notebook_before_the_settings(tmp_path):
    settings = project_in(tmp_path / "p")
    assert plan_schedule("hello", "@daily", to="cron", settings=settings).overlap == "skip"
    settings.run.overlap = "replace"
    assert plan_schedule("hello", "@daily", to="cron", settings=settings).overlap == "replace"
    notebook = nbformat.read(tmp_path / "p/jobs/hello.ipynb", 4)
    notebook.metadata["mlw"] = {"overlap": "queue"}
    nbformat.write(notebook, tmp_path / "p/jobs/hello.ipynb")
    assert plan_schedule("hello", "@daily", to="cron", settings=settings).overlap == "queue"
    with pytest.raises(ParameterError, match="'queue' cannot be had"): plan_schedule("hello", "@daily", to="systemd", settings=settings)


def test_files_are_written_again_but_never_over_somebody_elses(tmp_path):
    settings = project_in(tmp_path / "p")
    for _ in range(2): written = write_schedule("hello", "@daily", to="airflow", settings=settings)
    written.files[0].write_text("# mine")
    with pytest.raises(InputError, match="did not write it"): write_schedule("hello", "@daily", to="airflow", settings=settings)
    write_schedule("hello", "@daily", to="airflow", settings=settings, force=True)
    assert "mlw schedule" in written.files[0].read_text() and not list((tmp_path / "p/schedules").glob(".*"))


def test_a_workflow_goes_to_the_root_of_the_repository(tmp_path):
    (tmp_path / ".git").mkdir()
    settings = project_in(tmp_path / "models" / "p")
    written = write_schedule("hello", "@daily", to="github", settings=settings, store="s3://b/s")
    assert written.files == [tmp_path / ".github/workflows/nightly-reports-hello.yml"]
    assert yaml.safe_load(written.files[0].read_text())["jobs"]["run"]["defaults"]["run"]["working-directory"] == "models/p"


def test_the_install_command_replaces_the_earlier_line(settings, tmp_path):
    "Run with a stand-in for `crontab` that keeps its table in a file."
    written = write_schedule("hello", "@daily", to="cron", settings=settings, name="twice")
    (tmp_path / "crontab").write_text('#!/bin/sh\nif [ "$1" = -l ]; then cat "$TABLE" 2>/dev/null; else cat > "$TABLE.new" && mv "$TABLE.new" "$TABLE"; fi\n')
    (tmp_path / "crontab").chmod(0o755)
    table = tmp_path / "table"
    table.write_text("1 2 3 4 5 other\n")
    for _ in range(2): subprocess.run(["sh", "-c", written.install], env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TABLE": str(table)}, check=True)
    assert table.read_text().splitlines() == ["1 2 3 4 5 other", next(f for f in written.files if f.suffix == ".cron").read_text().strip()]


def test_the_command_writes_and_says_how_to_install(tmp_path, capsys, monkeypatch):
    from mlops_workbench.ui.cli import main
    settings = project_in(tmp_path / "p")
    monkeypatch.setenv("COLUMNS", "80")
    status = main(["schedule", "hello", "--cron", "30 4 * * MON-FRI", "--to", "systemd", "-p", "text=it's 100% $HOME", "-p", "number=2", "--timezone", "Europe/Berlin", "--secret", "DB_PASSWORD", "--timeout", "0", "--mlw", "/opt/mlw", "-C", str(settings.root)])
    said = capsys.readouterr().out
    service = (settings.root / "schedules" / "nightly-reports-hello.service").read_text()
    assert status == 0 and f"  systemctl --user link {settings.root}/schedules/nightly-reports-hello.service && systemctl --user enable --now {settings.root}/schedules/nightly-reports-hello.timer\n" in said
    assert "due next: " in said and "04:30 (Europe/Berlin)" in said and "DB_PASSWORD" in said
    assert '"/opt/mlw" "run" "hello"' in service and '"text=it\'s 100%% $$HOME" "-p" "number=2" "--timeout" "0"' in service
    for wrong, says in ((["--cron", "0 0 30 2 *", "--to", "cron"], "never due"), (["--cron", "@daily", "--to", "kron"], "did you mean 'cron'"), (["--cron", "@daily", "--to", "cron", "-p", "nmber=2"], "did you mean 'number'"), (["--cron", "@daily", "--to", "kubernetes"], "--image")):
        assert main(["schedule", "hello", *wrong, "-C", str(settings.root)]) == 2 and says in capsys.readouterr().err


# ---- and the real thing ----

def test_a_real_cron_runs_the_job(settings, real_cron):
    if isinstance(real_cron, str): pytest.skip(real_cron)
    log = settings.root / "schedules" / "each-minute.log"
    assert real_cron.poll() is None, "cron did not stay up"
    while not (log.exists() and "== exit status" in log.read_text()) and real_cron.poll() is None: time.sleep(0.5)
    assert "== exit status 0" in log.read_text(), log.read_text()
    run = json.loads(next((settings.root / "store" / "runs").glob("*/run.json")).read_text())
    assert (run["status"], run["job"], run["parameters"]) == ("succeeded", "hello", AWKWARD)
    done = nbformat.read(next((settings.root / "store" / "runs").glob("*/notebook.ipynb")), 4)
    assert done.cells[-1].outputs[0].text == f"{AWKWARD['text']!r} a long token of ours\n"   # the environment came from the file of secrets
    assert shlex.split(log.read_text().splitlines()[0])[2] == "each-minute"
