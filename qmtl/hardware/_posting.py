"""How a job is posted: once, and with options that the client knows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qmtl.errors import InvalidInputError

__all__ = ["posting_once", "primitive_options"]


@contextmanager
def posting_once(service: Any, instance: str) -> Iterator[None]:
    """Keep the client from posting a job again by itself after an answer of 5xx.

    The job may exist nevertheless, and would be there twice. There is no public setting; with a
    client that is built otherwise the second job is found by its tags, and cancelled.
    """
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    try:
        session = service._get_api_client(instance)._session
        prefix, adapters = f"{session.base_url}/jobs", session.adapters
    except AttributeError:
        yield
        return
    # A connection that was never made can be tried again.
    retry = Retry(total=None, connect=3, read=0, redirect=0, status=0, other=0, backoff_factor=0.5)
    session.mount(prefix, HTTPAdapter(max_retries=retry))
    try:
        yield
    finally:
        adapters.pop(prefix, None)


def primitive_options(primitive: str, options: Mapping[str, Any]) -> Any:
    """`SamplerOptions` or `EstimatorOptions` of the client.

    Raises:
        InvalidInputError: for options that they do not have.

    Example:
        >>> primitive_options("sampler", {"default_shots": 100}).default_shots
        100
    """
    from pydantic import ValidationError
    from qiskit_ibm_runtime.options_models import EstimatorOptions, SamplerOptions

    kind = SamplerOptions if primitive == "sampler" else EstimatorOptions
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"{kind.__name__} has no such {where!r}: {first['msg']}") from None
