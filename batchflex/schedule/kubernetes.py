"""A schedule as a Kubernetes CronJob. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core import JobError
from .cron_expression import Cron, listed
from .launch import Launch, Made

_NO_TEXTS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


class Cluster(NamedTuple):
    """What a cluster has for the job: an image with batchflex, a claim on a volume with its folder, a secret with its keys."""

    image: str
    claim: str
    secret: str


def cron_job(launch: Launch, crons: Sequence[Cron], zone: str, cluster: Cluster) -> Made:
    """The manifest. The folder has the same path in the container as here.

    :raises JobError: if Kubernetes cannot keep to these times with one object, which alone prevents two runs at once.
    """
    if len(crons) > 1:
        raise JobError("a CronJob has one expression, so these times must have one minute: '02:00,14:00', or --cron")
    if ":" in launch.folder:
        raise JobError(f"a container cannot have the folder {launch.folder!r:.120}, because of the colon in it")
    for option, name in (("--claim", cluster.claim), ("--secret", cluster.secret)):
        if not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name):
            raise JobError(f"{option} {name!r:.80} is no name in Kubernetes: small letters, digits and hyphens")
    manifest = _manifest(launch, schedule(crons[0]), zone, cluster)
    notes = [
        "install: kubectl apply -f FILE",
        f"volume: the claim {cluster.claim} holds {launch.folder}, job file, input and output; "
        "on a new volume, everything would be asked again",
        *launch.key_notes(),
    ]
    if launch.keys:
        lines = ", ".join(f"{key}=…" for key in launch.keys)
        notes.append(
            f"key: kubectl create secret generic {cluster.secret} --from-env-file=FILE, with {lines} in the file"
        )
    return Made({f"{launch.name}.yaml": f"# batchflex: {launch.title}\n" + yaml(manifest)}, notes)


def schedule(cron: Cron) -> str:
    """The expression as Kubernetes understands it: it has no weekday 7, and takes no ``*/2`` for a ``*``.

    :raises JobError: if a day of the month and a weekday must both fit.
    """
    minute, hour, _, month, _ = cron.text.split()
    every_day, every_weekday = len(cron.days) == 31, len(cron.weekdays) == 7
    if cron.both and not every_day and not every_weekday:
        raise JobError(
            f"{cron.text!r} means days that fit both the day of the month and the weekday, as one of them begins with *; "
            "Kubernetes would take either. Name the days of only one of them, or use --as systemd"
        )
    days, weekdays = listed(cron.days), listed(cron.weekdays)
    if every_day or every_weekday:
        days = "*" if every_day or not cron.both else days
        weekdays = "*" if every_weekday or not cron.both else weekdays
    return f"{minute} {hour} {days} {month} {weekdays}"


def _manifest(launch: Launch, schedule: str, zone: str, cluster: Cluster) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "batchflex",
        "image": cluster.image,
        "command": ["batchflex", *(word.replace("$(", "$$(") for word in launch.words)],
        "workingDir": launch.folder,
        "volumeMounts": [{"name": "folder", "mountPath": launch.folder}],
    }
    if launch.keys:
        container["env"] = [
            {"name": key, "valueFrom": {"secretKeyRef": {"name": cluster.secret, "key": key}}} for key in launch.keys
        ]
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(launch.grace_s) + 60,
        "containers": [container],
        "volumes": [{"name": "folder", "persistentVolumeClaim": {"claimName": cluster.claim}}],
    }
    job = {
        # A pod that was killed or moved goes on in another; after an exit code of ours a person is wanted, or the next time.
        "backoffLimit": 3,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2, 3, 4]}},
            ]
        },
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": launch.name},
        "spec": {
            "schedule": schedule,
            "timeZone": zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 7,
            "jobTemplate": {"spec": job},
        },
    }


def yaml(value: Any, indent: str = "") -> str:
    """Mappings, lists, texts and whole numbers as YAML, a text in quotes unless it can be nothing else."""
    if isinstance(value, Mapping):
        return "".join(f"{indent}{key}:{_below(item, indent)}" for key, item in value.items())
    parts = [
        yaml(item, f"{indent}  ") if isinstance(item, Mapping) else f"{indent}  {_scalar(item)}\n" for item in value
    ]
    return "".join(f"{indent}- {part[len(indent) + 2 :]}" for part in parts)


def _below(item: Any, indent: str) -> str:
    if isinstance(item, Mapping):
        return "\n" + yaml(item, f"{indent}  ")
    return (
        "\n" + yaml(item, indent) if isinstance(item, Sequence) and not isinstance(item, str) else f" {_scalar(item)}\n"
    )


def _scalar(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if re.fullmatch(r"/?[A-Za-z][\w./-]*", value, re.ASCII) and value.lower() not in _NO_TEXTS:
        return value
    # A text of JSON is one of YAML, but for characters that YAML wants escaped.
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in json.dumps(value, ensure_ascii=False))
