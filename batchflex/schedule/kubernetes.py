"""A schedule as a Kubernetes CronJob. Pure."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from ..core import JobError
from .cron_expression import Cron, listed
from .launch import Installation, Launch

_NO_TEXTS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


class Cluster(NamedTuple):
    """What a cluster has for the job: an image with batchflex, a claim on a volume with its folder, a secret with its keys; and
    how many pods, each with a shard, of which ``at_once`` run at the same time."""

    image: str
    claim: str
    secret: str
    shards: int | None = None
    at_once: int | None = None


def cron_job(launch: Launch, crons: Sequence[Cron], zone: str, cluster: Cluster) -> Installation:
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
    text = manifest(launch, schedule(crons[0]), zone, cluster)
    notes = [
        "install: kubectl apply -f FILE",
        f"volume: the claim {cluster.claim} holds {launch.folder}, job file, input and output; "
        "on a new volume, everything would be asked again",
        launch.log_note(f"kubectl logs --selector batchflex={launch.name} --tail -1"),
        *launch.key_notes(),
    ]
    if (file := launch.env_file or launch.own_file) is not None:
        where = "" if launch.env_file else "where that file is not on the volume: "
        notes.append(
            f"key: {where}kubectl create secret generic {cluster.secret} --from-env-file={shlex.quote(file)}, "
            "lines of NAME=VALUE without quotes"
        )
    if launch.keys and launch.env_file is None:
        lines = ", ".join(f"{key}=…" for key in launch.keys)
        notes.append(
            f"key: kubectl create secret generic {cluster.secret} --from-env-file=FILE, with {lines} in the file"
        )
    return Installation({f"{launch.name}.yaml": text}, notes)


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


# A pod that was killed or moved goes on in another; after an exit code of batchflex a person is needed, or the next time.
_MANIFEST = """\
# batchflex: {title}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
spec:
  schedule: {schedule}
  timeZone: {zone}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 7
  jobTemplate:
    spec:
{array}      podFailurePolicy:
        rules:
        - action: Ignore
          onPodConditions:
          - type: DisruptionTarget
            status: "True"
        - action: {fail}
          onExitCodes:
            operator: In
            values:
            - 1
            - 2
            - 3
            - 4
      template:
        metadata:
          labels:
            batchflex: {name}
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: {grace_s}
          containers:
          - name: batchflex
            image: {image}
            command:
            - batchflex
{command}            workingDir: {folder}
            volumeMounts:
            - name: folder
              mountPath: {folder}
{env}          volumes:
          - name: folder
            persistentVolumeClaim:
              claimName: {claim}
"""
# Each pod has its index in JOB_COMPLETION_INDEX; one that fails fails alone.
_INDEXED = """\
      completionMode: Indexed
      completions: {shards}
      parallelism: {at_once}
      backoffLimitPerIndex: 3
      maxFailedIndexes: {shards}
"""
# The secret may be missing where the run finds the same in a file .env on the volume.
_ENV_FROM = """\
            envFrom:
            - secretRef:
                name: {secret}
                optional: {optional}
"""
_KEY = """\
            - name: {key}
              valueFrom:
                secretKeyRef:
                  name: {secret}
                  key: {key}
"""


def manifest(launch: Launch, schedule: str, zone: str, cluster: Cluster) -> str:
    """The CronJob as YAML."""
    words = (word.replace("$(", "$$(") for word in launch.words)
    secret = scalar(cluster.secret)
    env = ""
    if launch.keys and launch.env_file is None:
        env = "".join(["            env:\n", *(_KEY.format(key=scalar(key), secret=secret) for key in launch.keys)])
    if launch.env_file is not None or launch.own_file is not None:
        env += _ENV_FROM.format(secret=secret, optional="false" if launch.env_file is not None else "true")
    shards = cluster.shards
    array = "      backoffLimit: 3\n"
    if shards is not None:
        array = _INDEXED.format(shards=shards, at_once=cluster.at_once or shards)
    return _MANIFEST.format(
        array=array,
        fail="FailJob" if shards is None else "FailIndex",
        title=launch.title,
        name=scalar(launch.name),
        schedule=scalar(schedule),
        zone=scalar(zone),
        grace_s=math.ceil(launch.grace_s) + 60,
        image=scalar(cluster.image),
        command="".join(f"            - {scalar(word)}\n" for word in words),
        folder=scalar(launch.folder),
        env=env,
        claim=scalar(cluster.claim),
    )


def scalar(text: str) -> str:
    """A text as a YAML scalar, in quotes unless it can be nothing else."""
    if re.fullmatch(r"/?[A-Za-z][\w./-]*", text, re.ASCII) and text.lower() not in _NO_TEXTS:
        return text
    # A text of JSON is one of YAML, but for characters that YAML wants escaped.
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in json.dumps(text, ensure_ascii=False))
