"The command `mlw` as a user types it, without the settings of whoever runs the tests."
import os
import subprocess
import sys

import pytest

KEPT = ("MLW_TEST_DATA", "MLW_WARM_FOLDER")
MLW = [sys.executable, "-c", "from mlops_workbench.ui.entry import script; script()"]


def environment(**more: str) -> dict[str, str]:
    "This process's environment without settings, and with these."
    return {k: v for k, v in os.environ.items() if not k.startswith("MLW_") or k in KEPT} | more


def without_settings(patch: pytest.MonkeyPatch) -> None:
    "Take the settings out of this process's own environment."
    for name in set(os.environ) - set(environment()): patch.delenv(name)


def mlw(*args: object, cwd: object, fails: bool = False, **env: str) -> subprocess.CompletedProcess:
    "What the command printed, and its exit status, which is 0 unless it may fail."
    done = subprocess.run([*MLW, *map(str, args)], cwd=cwd, env=environment(**env), capture_output=True, text=True)   # type: ignore[arg-type]
    assert fails or done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    return done
