"""A job as an array of Slurm tasks. Pure."""

from __future__ import annotations

import math
import shlex

from .launch import Installation, Launch

# The run gets the signal itself, so long before its time is over that what is in flight may be answered.
_SCRIPT = """\
#!/bin/bash
# batchflex: {title}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{at_once}
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@{grace_s}
#SBATCH --output={name}-%a.log
#SBATCH --open-mode=append
{environment}cd {folder} && exec {command}
"""


def array(launch: Launch, shards: int, at_once: int | None) -> Installation:
    """The script of an array job with a task for each of so many shards, of which ``at_once`` run at the same time."""
    environment = ""
    if launch.env_file is not None:
        environment = f"set -a && . {shlex.quote(launch.env_file)} && set +a\n"
    text = _SCRIPT.format(
        title=launch.title,
        name=launch.name,
        last=shards - 1,
        at_once="" if at_once is None else f"%{at_once}",
        grace_s=math.ceil(launch.grace_s) + 60,
        environment=environment,
        folder=shlex.quote(launch.folder),
        command=shlex.join([*launch.program, *launch.words]),
    )
    notes = [
        "submit: sbatch FILE; memory, time and what else your cluster wants are yours to change",
        f"folder: all nodes have {launch.folder}, and locks of files hold for all of them",
        launch.log_note(f"{launch.name}-N.log of each task, where it is submitted"),
        *launch.key_notes(),
    ]
    if launch.keys and launch.env_file is None:
        notes.append(
            f"key: sbatch hands on the environment that it is called in: {', '.join(launch.keys)}; or --env-file"
        )
    return Installation({f"{launch.name}.sbatch": text}, notes)
