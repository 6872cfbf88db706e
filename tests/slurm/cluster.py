"""A Slurm of one node on the loopback: `with cluster(folder) as environment`.

The node claims eight cores, four GPUs and 200 GB, whatever it has, so that jobs fit.

Debian's slurm-wlm and munge; no systemd, no accounting, all files and sockets in the folder. Also a
program: `python tests/slurm/cluster.py COMMAND...` runs the command while the cluster is up, and
leaves no process behind, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from adopting import adopting

NEEDED = {
    "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge",
}  # fmt: skip
PATIENCE = 60  # seconds for the node to come up

CONFIG = """
ClusterName=trimtab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobRequeue=1
KillWait=5
MinJobAge=600
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu,token
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=200000 Gres=gpu:4,token:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=9
"""
# What Slurm counts: GPUs that are empty files, and a thing that only one job can have.
GRES = "Name=gpu File={folder}/gpu[0-3]\nName=token Count=1\n"


def missing() -> list[str]:
    """The Debian packages that are not installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted(
        {package for name, package in NEEDED.items() if not shutil.which(name, path=path)}
    )


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it, yield the environment variables that lead to it, and stop it."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(
        host=host, folder=folder, user=user, control=_free_port(), node=_free_port(),
        cpus=max(8, os.cpu_count() or 1),
    ))  # fmt: skip
    (folder / "gres.conf").write_text(GRES.format(folder=folder))
    for number in range(4):
        (folder / f"gpu{number}").touch()
    environment = {**os.environ, "SLURM_CONF": str(config), "TRIMTAB_TEST_SLURM": "1"}
    environment["PATH"] += ":/usr/sbin:/sbin"
    daemons = (
        ["munged", "--foreground", "--force", f"--key-file={key}",
         f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
         f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-c", "-N", host],
    )  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    try:
        for words in daemons:
            with (folder / f"{words[0]}.out").open("wb") as out:
                running.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out))
            time.sleep(1)
        _wait(environment, folder)
        yield environment
    finally:
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["scancel", "--user", user], env=environment, check=False, timeout=30)
            time.sleep(1)
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(environment: dict[str, str], folder: Path) -> None:
    words = ["sinfo", "-h", "-o", "%T"]
    for _ in range(PATIENCE):
        told = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if told.stdout.strip() == "idle":
            return
        time.sleep(1)
    logs = "\n".join(p.read_text(errors="replace")[-1500:] for p in folder.glob("*.out"))
    raise RuntimeError(f"The node did not come up: {told.stdout}{told.stderr}\n{logs}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main() -> int:
    if packages := missing():
        print(f"Slurm is missing: apt-get install {' '.join(packages)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="trimtab-slurm-") as folder:
        return adopting(lambda: _command(Path(folder)))


def _command(folder: Path) -> int:
    with cluster(folder) as environment:
        return subprocess.call(sys.argv[1:], env=environment)


if __name__ == "__main__":
    sys.exit(main())
