"""Native code in forked processes, where a crash or a hang ends that process alone.

A forked process has one thread: the threads of a pool that its parent made are not in it, and who
waits for them waits for ever.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

import torch

MOST_SECONDS = 30.0  # of the clock, for one case

T = TypeVar("T")

_isolating: ContextVar[bool] = ContextVar("isolating", default=False)


class Crashed(Exception):  # noqa: N818  # what happened, to be reported
    """A process ended without an answer; the message says how, as ``crashes: SIGSEGV``."""


@contextmanager
def isolating(on: bool) -> Iterator[None]:
    token = _isolating.set(on)
    try:
        yield
    finally:
        _isolating.reset(token)


def forked(function: Callable[..., T], *arguments: Any) -> T:
    """What the function returns or raises: in a process of its own while isolating, else here.

    Raises Crashed where that process ends before it answers, or does not answer in time.
    """
    if not _isolating.get():
        return function(*arguments)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of threads
        child = os.fork()
    if not child:
        os.close(reading)
        _answer(writing, function, *arguments)
    os.close(writing)
    try:
        answer = _read(reading, time.monotonic() + MOST_SECONDS)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    if answer is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer is None:
        raise Crashed(f"does not come back in {MOST_SECONDS:g} s")
    if status:
        raise Crashed(f"crashes: {_how(status)}")
    returned, value = pickle.loads(answer)
    if not returned:
        raise value
    result: T = value
    return result


def _answer(writing: int, function: Callable[..., Any], *arguments: Any) -> NoReturn:
    """In the forked process: send what the function returns or raises, and end."""
    status = 1
    try:
        torch.set_num_threads(1)
        faulthandler.disable()  # the report says what it would
        _isolating.set(False)
        try:
            answer = pickle.dumps((True, function(*arguments)))
        except Exception as error:
            answer = _pickled(error)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        status = 0
    finally:
        os._exit(status)


def _pickled(error: Exception) -> bytes:
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
    except Exception:  # an error of a kind that does not travel
        answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer


def _read(pipe: int, until: float) -> bytes | None:
    """All that comes before the pipe is closed; None where that is too late."""
    parts: list[bytes] = []
    while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(pipe, 2**20)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.waitstatus_to_exitcode(status)}"
