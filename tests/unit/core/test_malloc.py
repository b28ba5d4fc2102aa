"""What is set of the allocators, and taken back."""

import pytest

from batchflex.core import malloc


@pytest.mark.parametrize("gives_back", [True, False])
def test_memory_is_kept_for_a_moment_only_in_a_process_that_gives_it_back(
    gives_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    monkeypatch.setattr(malloc, "_gives_back", gives_back)
    monkeypatch.setattr(malloc, "_bound", lambda *, short: done.append(short))
    monkeypatch.setattr(malloc, "trim", lambda: done.append("trim"))
    with pytest.raises(ZeroDivisionError), malloc.keeping():
        done.append("within")
        raise ZeroDivisionError
    assert done == ([True, "within", False, "trim"] if gives_back else ["within"])
