"""The launchers of tools/launch against stand-ins for gcloud, xpk, sbatch, srun, scontrol and skyrm."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "tools" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
TPU = ["--name", "rm", "--zone", "z"]
CREATE = ["--create", "--accelerator-type", "v6e-16", "--runtime-version", "v2-alpha-tpuv6e"]
GKE = ["--cluster", "c", "--workload", "w", "--tpu-type", "v6e-16", "--docker-image", "i"]
SLURM = ["--gpus-per-node", "8"]
TRAIN = ["--config", "c.yaml"]
AWKWARD = [
    *("--data.sources", "[a b.jsonl]", "it's", 'say "no"', "$HOME `id` $(id) $$ $(WORLD) ${WORLD}", "*", "a\\b"),
    *("a  b", "two\nlines", "tab\there", "", "!history", "grün", "#", "{not: yaml}", "-x", "--", "%USER%", "'$(WORLD)"),
]

FAKE = r'''
"""Every program that the launchers call: writes what it was called with to calls.jsonl, and acts as the test has it."""
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

world, name, arguments = Path(os.environ["WORLD"]), Path(sys.argv[0]).name, sys.argv[1:]
nodes = world / "nodes"
me = int(os.environ.get("WORKER", "0"))


def note(**more):
    with (world / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({"name": name, "arguments": arguments, "worker": me, **more}) + "\n")


def option(name):
    return next((a.split("=", 1)[1] for a in arguments if a.startswith(f"--{name}=")), None)


def skyrm():
    """The next of this worker's codes.json, "75|2" for workers 0 and 1; `wait`: 75 on SIGTERM; `1:S`: and its TPU is S."""
    count = world / f"starts-{me}"
    start = int(count.read_text()) if count.exists() else 0
    count.write_text(str(start + 1))
    codes = json.loads((world / "codes.json").read_text())
    wanted = codes[start].split("|") if start < len(codes) else ["0"]
    code = wanted[me % len(wanted)]
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    note(pid=os.getpid(), cwd=os.getcwd(), start_timeout=os.environ.get("SKYRM_START_TIMEOUT"))
    if code == "wait":
        end = time.monotonic() + 20
        while not told and time.monotonic() < end:
            time.sleep(0.01)
        note(told=bool(told))
        code = "75" if told else "1"
    code, _, state = code.partition(":")
    if state:
        (nodes / os.environ["NODE"]).write_text(state)
    return int(code)


def gcloud():
    note()
    assert arguments[:2] == ["compute", "tpus"], arguments
    kind, verb, target = arguments[2:5]
    file = nodes / target if kind == "tpu-vm" else world / "request"
    if verb == "describe":
        if not file.exists():
            return 1
        now, _, later = file.read_text().partition(" ")
        print(now)
        if later:
            file.write_text(later)
    elif verb == "create":
        count = int(option("node-count") or 1)
        request = (world / "requests").read_text().splitlines() if (world / "requests").exists() else []
        file.write_text(request[0] if request else "ACTIVE")
        (world / "requests").write_text("\n".join(request[1:]))
        for node in [option("node-id")] if count == 1 else [f"{option('node-prefix')}-{i}" for i in range(count)]:
            (nodes / node).write_text("READY")
    elif verb == "delete":
        file.unlink()
        for node in nodes.iterdir():
            node.unlink()
    elif verb == "scp":
        node, path = arguments[5].split(":")
        home(node).joinpath(path).write_bytes(Path(target).read_bytes())
    elif verb == "ssh":
        worker = int(target.rpartition("-")[2]) if target[-1].isdigit() else 0
        environment = {**os.environ, "HOME": str(home(target)), "WORKER": str(worker), "NODE": target}
        # As gcloud does it: split at spaces, which ssh puts back.
        command = " ".join(option("command").split(" "))
        return subprocess.run(["bash", "-c", command], env=environment, cwd=home(target)).returncode % 256
    return 0


def home(node):
    folder = world / f"home-{node}"
    folder.mkdir(exist_ok=True)
    return folder


def srun():
    note()
    command = arguments[next(i for i, a in enumerate(arguments) if not a.startswith("-")) :]
    environments = [{**os.environ, "WORKER": str(i)} for i in range(int(os.environ.get("TASKS", "1")))]
    tasks = [subprocess.Popen(command, env=environment) for environment in environments]
    # As the real one: SIGTERM kills the tasks.
    signal.signal(signal.SIGTERM, lambda *_: [task.kill() for task in tasks])
    (world / "tasks").write_text(" ".join(str(task.pid) for task in tasks))
    return max(task.wait() % 256 for task in tasks)


def scancel():
    note()
    assert arguments == ["--signal=TERM", "77"], arguments
    for task in (world / "tasks").read_text().split():
        os.kill(int(task), signal.SIGTERM)
    return 0


def squeue():
    note()
    print((world / "job_state").read_text() if (world / "job_state").exists() else "RUNNING")
    return 0


sys.exit(globals().get(name, lambda: note() or 0)())
'''


@dataclass
class World:
    """A home, a PATH of stand-ins, and what they were called with."""

    root: Path

    def environment(self, **more: str) -> dict[str, str]:
        fast = {"SKYRM_RESTART_PAUSE": "0", "SKYRM_POLL_SECONDS": "0", "SLURM_JOB_ID": "77"}
        path = f"{self.root}/bin:/usr/bin:/bin"
        return {"PATH": path, "WORLD": str(self.root), "HOME": str(self.root), "TMPDIR": str(self.root), **fast, **more}

    def start(self, command: list[str], codes: list[str] | None = None, **more: str) -> "subprocess.Popen[str]":
        (self.root / "codes.json").write_text(json.dumps(codes or ["0"]))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        # As a terminal starts it: tests that run in the background ignore SIGINT, and so would what they start.
        listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(
            command, env=self.environment(**more), cwd=self.root, text=True, preexec_fn=listening, **pipes
        )

    def run(
        self, command: list[str], codes: list[str] | None = None, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        process = self.start(command, codes, **more)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def calls(self, name: str, *beginning: str) -> list[list[str]]:
        return [call["arguments"] for call in self.noted(name) if call["arguments"][: len(beginning)] == [*beginning]]

    def noted(self, name: str) -> list[dict]:
        file = self.root / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if call["name"] == name]

    def trained(self) -> list[list[str]]:
        """The arguments of each start of `skyrm`."""
        return [call["arguments"] for call in self.noted("skyrm") if "pid" in call]

    def wait_for(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "nodes").mkdir()
    binaries = tmp_path / "bin"
    binaries.mkdir()
    fake = tmp_path / "fake.py"
    fake.write_text(f"#!{sys.executable} -IS\n{FAKE}")
    for name in ("gcloud", "xpk", "sbatch", "srun", "scancel", "scontrol", "squeue", "skyrm", "uv", "curl"):
        (binaries / name).symlink_to(fake)
    fake.chmod(0o755)
    return World(tmp_path)


def launch(script: str, *arguments: str, train: list[str] | None = None) -> list[str]:
    return [str(LAUNCH / script), *arguments, "--", *(TRAIN if train is None else train)]


def container(world: World) -> list[str]:
    """The command of the container that xpk 1.16 makes of its last `--command`, as Kubernetes would start it."""
    (command,) = [a.removeprefix("--command=") for a in world.calls("xpk")[-1] if a.startswith("--command=")]
    assert "\n" not in command, "the command is one line of xpk's manifest"
    command = re.sub(
        r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else {"WORLD": "expanded"}.get(m[1], m[0]), command
    )
    return [
        *("bash", "-c"),
        f"""_sigterm() (kill -SIGTERM $! 2>/dev/null;);
        trap _sigterm SIGTERM;
        ({command}) & PID=$!;
        while kill -0 $PID 2>/dev/null;
            do sleep 0.05;
        done;
        wait $PID;
        EXIT_CODE=$?;
        exit $EXIT_CODE""",
    ]


def batch(world: World) -> list[str]:
    """What the last sbatch submitted: a copy of the script, elsewhere, with its arguments."""
    submitted = world.calls("sbatch")[-1]
    at = submitted.index(str(LAUNCH / "slurm.sh"))
    copy = shutil.copy(submitted[at], world.root / "slurm_script")
    return ["bash", str(copy), *submitted[at + 1 :]]


def run_on(where: str, world: World, codes: list[str], *options: str, train: list[str] | None = None) -> int:
    """The exit code of a whole run whose starts end with these codes."""
    if where == "tpu_vm":
        return world.run(launch("tpu_vm.sh", *TPU, *CREATE, *options, train=train), codes).returncode
    script, given, inside = {"gke": ("gke.sh", GKE, container), "slurm": ("slurm.sh", SLURM, batch)}[where]
    made = world.run(launch(script, *given, *options, train=train))
    assert (made.returncode, made.stderr) == (0, "")
    return world.run(inside(world), codes).returncode


WHERE = pytest.mark.parametrize("where", ["tpu_vm", "gke", "slurm"])


@WHERE
@pytest.mark.parametrize(
    ("codes", "restarts", "starts", "ends"),
    [
        (["0"], 10, 1, 0),
        (["2", "0"], 10, 1, 2),
        (["75", "75", "75", "0"], 0, 4, 0),
        (["1", "139", "0"], 2, 3, 0),
        (["1", "75", "1", "1", "0"], 2, 4, 1),
        (["1", "2", "0"], 10, 2, 2),
    ],
)
def test_75_restarts_uncounted_2_never_and_a_crash_is_counted(
    world: World, where: str, codes: list[str], restarts: int, starts: int, ends: int
) -> None:
    assert run_on(where, world, codes, "--max-restarts", str(restarts)) == ends
    assert world.trained() == [["train", *TRAIN]] * starts


@WHERE
def test_arguments_arrive_unchanged(world: World, where: str) -> None:
    assert run_on(where, world, ["0"], train=AWKWARD) == 0
    assert world.trained() == [["train", *AWKWARD]]


def commands_of(printed: str) -> list[list[str]]:
    return [shlex.split(line) for line in printed.splitlines()]


def test_dry_run_of_tpu_vm(world: World) -> None:
    given = [*TPU, *CREATE, "--project=p", "--slices=2", "--spot", "--internal-ip", "--dry-run"]
    dry = world.run(launch("tpu_vm.sh", *given, train=["--data.sources", "[a b.jsonl]"]))
    assert (dry.returncode, dry.stderr) == (0, "") and not (world.root / "calls.jsonl").exists()
    tpus, where = ["gcloud", "compute", "tpus"], ["--zone=z", "--project=p"]
    reach = [*where, "--worker=all", "--internal-ip"]
    states = [[*tpus, "tpu-vm", "describe", f"rm-{i}", *where, "--format=value(state)"] for i in range(2)]
    shape = ["--node-count=2", "--node-prefix=rm", "--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e"]
    commands = commands_of(dry.stdout)
    bundle = commands[6][2]
    assert commands[:6] == [
        *states,
        [*tpus, "queued-resources", "describe", "rm", *where, "--format=value(state.state)"],
        [*tpus, "queued-resources", "create", "rm", *where, *shape, "--spot"],
        *states,
    ]
    assert commands[6][:3] == ["tar", "-czf", bundle] and commands[9] == ["rm", bundle]
    assert commands[7:9] == [[*tpus, "tpu-vm", "scp", bundle, f"rm-{i}:skyrm.tar.gz", *reach] for i in range(2)]
    ssh = [command for command in commands[10:] if command[:4] == [*tpus, "tpu-vm"] and command[4] == "ssh"]
    assert ssh == commands[10:] and [command[5] for command in ssh] == ["rm-0", "rm-1"] * 2
    assert all(command[6 : 6 + len(reach)] == reach for command in ssh)
    # A worker that vanishes must not hold the launcher for ever.
    assert all("--ssh-flag=-oServerAliveInterval=30" in command for command in ssh)
    assert "uv pip install" in ssh[0][-1] and ssh[0][-1] == ssh[1][-1]
    assert ssh[2][-1].endswith("--alone skyrm train --data.sources '[a b.jsonl]'") and ssh[2][-1] == ssh[3][-1]


def test_dry_run_of_gke(world: World) -> None:
    dry = world.run(launch("gke.sh", *GKE, "--num-slices", "2", "--priority=high", "--dry-run"))
    assert (dry.returncode, dry.stderr) == (0, "") and not (world.root / "calls.jsonl").exists()
    (command,) = commands_of(dry.stdout)
    assert [part for part in command if not part.startswith("--command=")] == [
        *("xpk", "workload", "create", "--cluster=c", "--workload=w", "--tpu-type=v6e-16", "--num-slices=2"),
        *("--docker-image=i", "--restart-on-exit-codes=75", "--max-restarts=100"),
        *("--termination-grace-period-seconds=300", "--priority=high"),
    ]
    # What it prints is what it does.
    assert world.run(launch("gke.sh", *GKE, "--num-slices", "2", "--priority=high")).returncode == 0
    assert world.calls("xpk") == [command[1:]]


def test_gke_takes_a_base_image(world: World) -> None:
    assert world.run(launch("gke.sh", *GKE[:-2], "--base-docker-image=b")).returncode == 0
    (call,) = world.calls("xpk")
    assert "--base-docker-image=b" in call and not any(part.startswith("--docker-image") for part in call)


def test_dry_run_of_slurm(world: World) -> None:
    dry = world.run(launch("slurm.sh", *SLURM, "--nodes=4", "-p", "h100", "--dry-run", train=["--a", "b c"]))
    assert (dry.returncode, dry.stderr) == (0, "") and not (world.root / "calls.jsonl").exists()
    assert commands_of(dry.stdout) == [
        [
            *("sbatch", "--job-name=skyrm", "--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue"),
            *("--open-mode=append", "--signal=B:TERM@120", "-p", "h100"),
            *(str(LAUNCH / "slurm.sh"), "--in-job", str(LAUNCH), "10", "--a", "b c"),
        ]
    ]


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh", "slurm.sh"])
def test_help_is_the_head_of_the_script(world: World, script: str) -> None:
    told = world.run([str(LAUNCH / script), "--help"])
    assert told.returncode == 0 and f"tools/launch/{script}" in told.stdout and "--max-restarts N" in told.stdout
    assert "set -euo" not in told.stdout and not (world.root / "calls.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (launch("tpu_vm.sh", "--zone", "z"), "--name is missing"),
        (launch("tpu_vm.sh", "--name", "rm"), "--zone is missing"),
        (launch("tpu_vm.sh", *TPU, "--create", "--runtime-version=v"), "--accelerator-type is missing"),
        (launch("tpu_vm.sh", *TPU, "--create", "--accelerator-type=v6e-16"), "--runtime-version is missing"),
        (launch("tpu_vm.sh", *TPU, "--spot"), "add --create"),
        (launch("tpu_vm.sh", *TPU, "--slices", "0"), "--slices is a number"),
        (launch("tpu_vm.sh", "--zone", "z", "--name"), "--name has no value"),
        (launch("tpu_vm.sh", *TPU, "--max-restarts=few"), "--max-restarts is a number"),
        (launch("gke.sh", *GKE[2:]), "--cluster is missing"),
        (launch("gke.sh", *GKE[:2], *GKE[4:]), "--workload is missing"),
        (launch("gke.sh", *GKE[:4], *GKE[6:]), "--tpu-type is missing"),
        (launch("gke.sh", *GKE[:6]), "--docker-image is missing"),
        (launch("slurm.sh"), "--gpus-per-node is missing"),
        (launch("slurm.sh", *SLURM)[:-3], "put them after --"),
    ],
)
def test_a_missing_argument_is_one_line_and_exit_code_2(world: World, command: list[str], said: str) -> None:
    refused = world.run(command)
    assert (refused.returncode, refused.stdout) == (2, "") and not (world.root / "calls.jsonl").exists()
    assert refused.stderr.startswith("error: ") and said in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "given", "tool", "remedy"),
    [
        ("tpu_vm.sh", TPU, "gcloud", "cloud.google.com/sdk"),
        ("gke.sh", GKE, "xpk", "pip install xpk"),
        ("slurm.sh", SLURM, "sbatch", "login node"),
    ],
)
def test_a_missing_tool_is_one_line_and_exit_code_2(
    world: World, script: str, given: list[str], tool: str, remedy: str
) -> None:
    # A PATH with nothing but what bash scripts take for granted.
    bare = world.root / "bare"
    bare.mkdir()
    for name in ("bash", "env", "dirname", "sed", "seq"):
        (bare / name).symlink_to(str(shutil.which(name)))
    refused = world.run(launch(script, *given), PATH=str(bare))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {tool} is not installed: ") and remedy in refused.stderr
    assert refused.stderr.count("\n") == 1


def verbs(world: World) -> list[str]:
    """What gcloud was asked for, but for questions."""
    return [call[3] for call in world.calls("gcloud") if call[3] != "describe"]


def test_a_preempted_tpu_is_deleted_and_made_anew_uncounted(world: World) -> None:
    command = launch("tpu_vm.sh", *TPU, *CREATE, "--spot", "--max-restarts=0")
    done = world.run(command, ["143:PREEMPTED", "2:PREEMPTED", "0"])
    assert done.returncode == 0 and len(world.trained()) == 3
    anew = ["create", "scp", "ssh", "ssh"]
    assert verbs(world) == [*anew, "delete", *anew, "delete", *anew]
    (delete, _) = world.calls("gcloud", "compute", "tpus", "queued-resources", "delete")
    assert delete[4:] == ["rm", "--zone=z", "--force", "--quiet"]
    assert "queued-resources delete rm" in done.stderr.splitlines()[-1]


def test_a_tpu_that_is_there_is_used_as_it_is(world: World) -> None:
    (world.root / "nodes" / "rm").write_text("READY")
    assert world.run(launch("tpu_vm.sh", *TPU), ["75", "0"]).returncode == 0
    assert verbs(world) == ["scp", "ssh", "ssh", "ssh"]


def test_new_disks_get_the_package_anew(world: World) -> None:
    """States are of one question after the other: preempted after a look, or repaired before one."""
    command = launch("tpu_vm.sh", *TPU, *CREATE, "--max-restarts=0")
    assert world.run(command, ["75:READY PREEMPTED", "1:REPAIRING READY", "0"]).returncode == 0
    assert verbs(world) == ["create", "scp", "ssh", "ssh", "delete", "create", "scp", "ssh", "ssh", "scp", "ssh", "ssh"]


@pytest.mark.parametrize("state", [None, "PREEMPTED"])
def test_without_create_a_missing_or_preempted_tpu_ends_it(world: World, state: str | None) -> None:
    if state is not None:
        (world.root / "nodes" / "rm").write_text(state)
    refused = world.run(launch("tpu_vm.sh", *TPU))
    assert refused.returncode == 2 and "--create" in refused.stderr and (state or "NONE") in refused.stderr
    assert verbs(world) == []


def test_a_request_is_waited_for_and_a_suspended_one_made_anew(world: World) -> None:
    (world.root / "request").write_text("WAITING_FOR_RESOURCES PROVISIONING SUSPENDED")
    assert world.run(launch("tpu_vm.sh", *TPU, *CREATE)).returncode == 0
    assert verbs(world) == ["delete", "create", "scp", "ssh", "ssh"]


def test_a_request_that_fails_is_counted(world: World) -> None:
    (world.root / "request").write_text("FAILED")
    given_up = world.run(launch("tpu_vm.sh", *TPU, *CREATE, "--max-restarts=0"))
    assert given_up.returncode == 1 and verbs(world) == ["delete"]


@pytest.mark.parametrize(
    ("codes", "ends"),
    [(["75|0|75", "75|1|75", "75|75|2"], 2), (["1|2|1"], 2), (["75|3|0", "75|75|1"], 1), (["0|75|0", "0|0|0"], 0)],
)
def test_the_gravest_code_of_all_slices_counts(world: World, codes: list[str], ends: int) -> None:
    command = launch("tpu_vm.sh", *TPU, *CREATE, "--slices=3", "--max-restarts=1")
    assert world.run(command, codes).returncode == ends
    assert sorted(call["worker"] for call in world.noted("skyrm")) == sorted([0, 1, 2] * len(codes))
    (create,) = world.calls("gcloud", "compute", "tpus", "queued-resources", "create")
    assert "--node-count=3" in create and "--node-prefix=rm" in create


def test_workers_get_this_checkout(world: World) -> None:
    assert world.run(launch("tpu_vm.sh", *TPU, *CREATE)).returncode == 0
    copied = world.root / "home-rm" / "skyrm"
    assert (copied / "skyrm_jax" / "cli.py").exists() and (copied / "configs" / "qwen3_8b.yaml").exists()
    assert [call["cwd"] for call in world.noted("skyrm")] == [str(copied)]
    assert world.calls("uv")[-1][:2] == ["pip", "install"]
    assert not list(world.root.glob("*.tar.gz"))


def test_a_process_that_a_broken_connection_left_is_ended_first(world: World) -> None:
    (world.root / "nodes" / "rm").write_text("READY")
    home = world.root / "home-rm"
    home.mkdir()
    left = world.start([str(world.root / "bin" / "skyrm"), "train"], ["wait", "0"])
    (home / ".skyrm.pid").write_text(str(left.pid))
    world.wait_for(world.trained)
    launched = world.start(launch("tpu_vm.sh", *TPU, "--max-restarts=0"), ["wait", "0"])
    assert left.wait(20) == 75
    out, err = launched.communicate(timeout=20)
    assert launched.returncode == 0 and f"ending process {left.pid}" in out and "starting it again" in err
    assert world.trained() == [["train"], ["train", *TRAIN]]


def test_a_stopped_tpu_launcher_has_all_workers_save(world: World) -> None:
    launched = world.start(launch("tpu_vm.sh", *TPU, *CREATE, "--slices=2"), ["wait"])
    world.wait_for(lambda: len(world.trained()) == 2)
    launched.send_signal(signal.SIGINT)
    launched.communicate(timeout=20)
    assert launched.returncode == 75
    assert len(world.trained()) == 2 and [call for call in world.noted("skyrm") if call.get("told") is False] == []
    assert sum(call.get("told", False) for call in world.noted("skyrm")) == 2


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_sigterm_to_the_batch_shell_reaches_all_tasks_and_the_job_is_requeued(world: World, state: str) -> None:
    """scancel, after which the job is COMPLETING, sends SIGTERM too."""
    (world.root / "job_state").write_text(state)
    assert world.run(launch("slurm.sh", *SLURM)).returncode == 0
    job = world.start(batch(world), ["wait|wait"], TASKS="2")
    world.wait_for(lambda: len(world.trained()) == 2)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=20)
    assert job.returncode == 75 and len(world.trained()) == 2
    assert sum(call.get("told", False) for call in world.noted("skyrm")) == 2
    assert world.calls("scontrol") == ([["requeue", "77"]] if state == "RUNNING" else [])


@pytest.mark.parametrize("codes", [["75", "0"], ["2"], ["1", "1"]])
def test_a_job_that_was_not_told_to_stop_is_not_requeued(world: World, codes: list[str]) -> None:
    run_on("slurm", world, codes, "--max-restarts=1")
    assert len(world.trained()) == len(codes) and world.calls("scontrol") == []


@pytest.mark.parametrize(("codes", "ends"), [(["75|75", "75|2"], 2), (["75|1"], 1), (["1|75"], 1)])
def test_the_gravest_code_of_all_tasks_counts(world: World, codes: list[str], ends: int) -> None:
    """srun itself has the highest code, which is 75."""
    assert world.run(launch("slurm.sh", *SLURM, "--max-restarts=0")).returncode == 0
    assert world.run(batch(world), codes, TASKS="2").returncode == ends
    assert len(world.trained()) == 2 * len(codes)
    assert world.calls("srun")[0][:3] == ["--kill-on-bad-exit=1", "--gpu-bind=none", str(LAUNCH / "worker.sh")]


def test_a_container_that_is_told_to_stop_ends_with_75(world: World) -> None:
    assert world.run(launch("gke.sh", *GKE)).returncode == 0
    pod = world.start(container(world), ["wait", "0"])
    world.wait_for(world.trained)
    pod.send_signal(signal.SIGTERM)
    pod.communicate(timeout=20)
    assert pod.returncode == 75 and len(world.trained()) == 1
    assert world.noted("skyrm")[0]["start_timeout"] == "1800"


def test_a_pause_ends_when_told_to_stop(world: World) -> None:
    assert world.run(launch("gke.sh", *GKE)).returncode == 0
    pod = world.start(container(world), ["1", "0"], SKYRM_RESTART_PAUSE="60")
    world.wait_for(world.trained)
    time.sleep(0.5)
    pod.send_signal(signal.SIGTERM)
    pod.communicate(timeout=10)
    assert pod.returncode == 75 and len(world.trained()) == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) == (script.name != "common.sh")
    checker = shutil.which("shellcheck")
    if checker is not None:
        subprocess.run([checker, "-x", "-P", LAUNCH, "-S", "warning", script], check=True)
