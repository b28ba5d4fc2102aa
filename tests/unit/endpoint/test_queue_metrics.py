"""What a server's own /metrics say of its queue."""

from __future__ import annotations

import pytest

from batchflex.endpoint.queue_metrics import waiting

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen2.5-7B"} 16.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen2.5-7B"} 5.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 5.0
vllm:gpu_cache_usage_perc{model_name="Qwen/Qwen2.5-7B"} 0.25
"""
LLAMA = """\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 7
"""


def test_vllm_says_it_with_labels() -> None:
    assert waiting(VLLM) == 5


def test_llama_cpp_says_it_without() -> None:
    assert waiting(LLAMA) == 7


def test_several_engines_are_summed() -> None:
    lines = [f'vllm:num_requests_waiting{{engine="{n}",model_name="m"}} {n}.0' for n in range(4)]
    assert waiting("\n".join(lines)) == 6


def test_none_that_wait_is_not_the_same_as_not_said() -> None:
    assert waiting('vllm:num_requests_waiting{model_name="m"} 0.0\n') == 0
    assert waiting("llamacpp:requests_deferred 0\n") == 0


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("value", ["12", "12.0", "1.2e1", "+12"])
def test_numbers_as_the_format_has_them(value: str, end: str) -> None:
    assert waiting(f"llamacpp:requests_deferred {value}{end}") == 12
    assert waiting(f'vllm:num_requests_waiting{{model_name="m"}} {value}{end}') == 12


def test_a_time_may_follow_the_value() -> None:
    assert waiting('vllm:num_requests_waiting{model_name="m"} 3 1700000000000\n') == 3


@pytest.mark.parametrize("model", ["a b", "a}b", "a{b", 'a\\"b', "a} 9", "#"])
def test_labels_may_hold_anything(model: str) -> None:
    assert waiting(f'vllm:num_requests_waiting{{model_name="{model}"}} 3.0\n') == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "<html><body>404</body></html>",
        '{"waiting": 3}',
        "vllm:num_requests_running 3",
        "# vllm:num_requests_waiting 3",
        "vllm:num_requests_waiting",
        "vllm:num_requests_waiting ",
        "vllm:num_requests_waiting many",
        'vllm:num_requests_waiting{model_name="m"}',
        'vllm:num_requests_waiting{model_name="m',
        'vllm:num_requests_waiting{model_name="m"} NaN',
        "llamacpp:requests_deferred +Inf",
        "my_llamacpp:requests_deferred 3",
        "\x00\ufffd{}}{ } 3",
    ],
)
def test_rubbish_says_nothing(text: str) -> None:
    assert waiting(text) is None


def test_rubbish_takes_nothing_from_what_is_said() -> None:
    assert waiting(f'vllm:num_requests_waiting{{engine="9"}} NaN\n???\n{VLLM}vllm:num_requests_waiting x\n') == 5
