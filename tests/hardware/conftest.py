"""The loopback service, for every test of dispatch, and a folder of transpiled circuits."""

import pytest

from tests.hardware.dispatch_samples import BACKEND, backend_files
from tests.hardware.ibm_server import IbmServer


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Tests share it: the same circuit is transpiled once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = IbmServer({BACKEND: backend_files()})
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "ledger.sqlite"))
    yield server
    server.close()


@pytest.fixture
def service(server):
    return server.service
