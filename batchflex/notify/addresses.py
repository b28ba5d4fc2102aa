"""Where a job's webhook and ping go: in the job file, in a variable of the environment, or in a credential of systemd."""

from __future__ import annotations

from typing import Literal

from ..config import Address, Job, address, credential


def address_of(job: Job, name: Literal["webhook", "ping"]) -> Address | None:
    """``None`` if the job has none. One that cannot be found has a fault."""
    variable = getattr(job.notify, f"{name}_env")
    if variable is None or job.environment.get(variable, "").strip():
        return address(job.notify, name, job.environment)
    try:
        value = credential(job.environment, variable)
    except OSError as error:
        return Address("", f"the credential {error.filename} cannot be read: {error.strerror}")
    return address(job.notify, name, {variable: value})


def missing_addresses(job: Job) -> list[str]:
    """A sentence for each of webhook and ping whose address a run would not find, if it was started here and now."""
    found = ((name, address_of(job, name)) for name in ("webhook", "ping"))
    return [f"a run could not notify by the {name}: {to.fault}" for name, to in found if to is not None and to.fault]
