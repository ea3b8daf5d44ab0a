"What holds for all tests."
import signal
import tempfile

import pytest

from mlops_workbench.jobs import warm as warming

# A shell's background job ignores SIGINT and so do all that it starts; here Ctrl-C must reach what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def resident():
    "The folder of a process that has the libraries loaded; empty where there can be none."
    if warming.unsupported():
        yield ""
        return
    def there(do):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLW_WARM_FOLDER", folder)
            do()
    with tempfile.TemporaryDirectory(prefix="mlw-w-", dir="/tmp") as folder:
        there(lambda: warming.start(idle=900))
        yield folder
        there(warming.stop)


@pytest.fixture(scope="module")
def warm(resident):
    "Jobs are forked from that process: for tests that look at what jobs leave, not at how they start."
    with pytest.MonkeyPatch.context() as patch:
        if resident: patch.setenv("MLW_WARM_FOLDER", resident)
        yield
