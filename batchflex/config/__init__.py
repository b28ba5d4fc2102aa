"""A job file, and what it may say: text to :class:`Job`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import dated_path as dated_path, job as job, path_variables as path_variables, toml as toml
    from .dated_path import local as local
    from .diff import SHAPING as SHAPING, changes as changes, endpoint_of as endpoint_of
    from .durations import (
        deadline_s as deadline_s,
        moment_of as moment_of,
        parse_age as parse_age,
        parse_duration as parse_duration,
        until_change_s as until_change_s,
    )
    from .environment import (
        Environment as Environment,
        credential as credential,
        environment_of as environment_of,
        exposed as exposed,
    )
    from .job import (
        EndpointsEntry as EndpointsEntry,
        Job as Job,
        JournalSection as JournalSection,
        PromptSection as PromptSection,
        RetrySection as RetrySection,
        build as build,
        literal as literal,
        load as load,
        parse_setting as parse_setting,
        read as read,
    )
    from .job_checks import (
        HOSTED as HOSTED,
        NO_PRICES as NO_PRICES,
        endpoint_name as endpoint_name,
        host_of as host_of,
        hosted_at as hosted_at,
        unbounded as unbounded,
    )
    from .job_mistakes import choice as choice, nearest as nearest
    from .notify_sections import Address as Address, Pings as Pings, address as address, pings as pings
    from .partial import job_of_section as job_of_section
    from .path_variables import expanded as expanded
    from .pricing import cost_usd as cost_usd, price_usd as price_usd
    from .run_outcomes import (
        End as End,
        Occasion as Occasion,
        end_of as end_of,
        event_of as event_of,
        is_news as is_news,
        last_end as last_end,
    )
    from .score_sections import (
        LETTERS as LETTERS,
        ROUND_A_NAME as ROUND_A_NAME,
        JudgeSection as JudgeSection,
        ScoreLike as ScoreLike,
        ScoreSection as ScoreSection,
        names_of as names_of,
        specs_of as specs_of,
    )
    from .sections import (
        EndpointSection as EndpointSection,
        LimitsSection as LimitsSection,
        LogSection as LogSection,
        PricesSection as PricesSection,
        http_url as http_url,
        text_fault as text_fault,
    )
    from .settings import elsewhere as elsewhere, refused as refused
    from .sweep import combinations as combinations

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "job_checks": ["HOSTED", "NO_PRICES", "endpoint_name", "host_of", "hosted_at", "unbounded"],
        "dated_path": ["local"],
        "diff": ["SHAPING", "changes", "endpoint_of"],
        "durations": ["deadline_s", "moment_of", "parse_age", "parse_duration", "until_change_s"],
        "environment": ["Environment", "credential", "environment_of", "exposed"],
        "job": [
            "EndpointsEntry",
            "Job",
            "JournalSection",
            "PromptSection",
            "RetrySection",
            "build",
            "literal",
            "load",
            "parse_setting",
            "read",
        ],
        "job_mistakes": ["choice", "nearest"],
        "notify_sections": ["Address", "Pings", "address", "pings"],
        "partial": ["job_of_section"],
        "path_variables": ["expanded"],
        "pricing": ["cost_usd", "price_usd"],
        "run_outcomes": ["End", "Occasion", "end_of", "event_of", "is_news", "last_end"],
        "score_sections": [
            "JudgeSection",
            "LETTERS",
            "ROUND_A_NAME",
            "ScoreLike",
            "ScoreSection",
            "names_of",
            "specs_of",
        ],
        "sections": ["EndpointSection", "LimitsSection", "LogSection", "PricesSection", "http_url", "text_fault"],
        "settings": ["elsewhere", "refused"],
        "sweep": ["combinations"],
        "toml": [],
    },
    modules=["dated_path", "job", "path_variables", "toml"],
)
