"""An exception of the application in the log."""

from __future__ import annotations

from typing import Any

import pytest

from fcgi_procmanager import ProcManager
from fcgi_procmanager.fastcgi.tracebacks import write_traceback


@pytest.mark.parametrize(
    "params", [{"REQUEST_URI": 5}, {"REQUEST_URI": b"/x"}, {"SCRIPT_NAME": None}, {"REQUEST_METHOD": 5}, None]
)
def test_it_is_told_whatever_the_application_has_made_of_its_request(
    params: Any, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        write_traceback(ProcManager(0), params)
    (record,) = caplog.records
    assert record.getMessage().endswith("exception in a worker: ValueError: no")
