"Twenty processes committing to one new dataset at once: every version is there."
import multiprocessing
from pathlib import Path

import pytest

WRITERS = 20


def write(store_url: str, mode: str, i: int, barrier) -> None:
    import polars as pl

    from mlops_workbench.core.store import open_store
    from mlops_workbench.data.dataset import commit
    store, frame = open_store(store_url), pl.DataFrame({"writer": [i, i], "row": [0, 1]})
    barrier.wait(300)
    commit(store, "shared", frame, message=f"writer {i}", mode=mode)


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_no_commit_is_lost(tmp_path: Path, mode: str):
    from mlops_workbench.core.store import open_store
    from mlops_workbench.data.dataset import read, versions
    context = multiprocessing.get_context("spawn")     # a forked child of a process that has used Polars hangs
    barrier = context.Barrier(WRITERS)
    writers = [context.Process(target=write, args=(str(tmp_path), mode, i, barrier)) for i in range(WRITERS)]
    for w in writers: w.start()
    for w in writers: w.join()
    assert [w.exitcode for w in writers] == [0] * WRITERS
    store = open_store(tmp_path)
    found = versions(store, "shared")
    assert [v.version for v in found] == list(range(1, WRITERS + 1))
    assert {v.message for v in found} == {f"writer {i}" for i in range(WRITERS)}
    assert [v.rows for v in found] == ([2] * WRITERS if mode == "replace" else [2 * k for k in range(1, WRITERS + 1)])
    for v in found:
        frame = read(store, str(v))
        assert frame.height == v.rows and f"writer {frame['writer'][-1]}" == v.message
    if mode == "append": assert sorted(read(store, "shared")["writer"]) == sorted(list(range(WRITERS)) * 2)


