"""Asks the properties of a pair of one case after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.acceptance import accepts, outputs_of
from backprop_ops.checking.calling import BackwardRaises, Caller, Learned, Outside
from backprop_ops.checking.case import Case, LaidOut
from backprop_ops.checking.finding import LATER, Finding
from backprop_ops.checking.isolation import Crashed, forked
from backprop_ops.checking.properties import findings_of
from backprop_ops.checking.same import apart
from backprop_ops.leaves import in_dtype

LOST = 0.05  # of an output's largest entry, by which a forward is off that has lost its digits
_LAYOUT = "the numbers are right where the memory is contiguous: read them through their strides"


@dataclass
class Inspector(Caller):
    """A caller that judges. ``earlier``: the arguments of the first case and of the last."""

    earlier: list[dict[str, Any]] = field(default_factory=list)

    def quiet(self) -> Inspector:
        """Another that judges alike, and whose cases leave nothing behind in this one."""
        known = Learned(
            differenced=self.learned.differenced, differentiated=self.learned.differentiated
        )
        return Inspector(self.pair, self.oracle, self.skip, known)

    def findings(self, case: Case) -> list[Finding]:
        """The first property that does not hold, once for every gradient of which it does not.

        Raises Outside where a case is none.
        """
        try:
            found = self.learning(self._of_the_case, case)
        except Crashed as error:
            found = [self.crash(error)]
        self.earlier = [*self.earlier[:1], dict(case.arguments)]
        return found

    def _of_the_case(self, case: Case) -> list[Finding]:
        found = self._first_failing(case)
        of_values = bool(found) and found[0].property in ("value", "linearity", "zero")
        if of_values and case.reach == "beyond" and self._is_lost(case):
            raise Outside
        laid_out = bool(found) and case.family == "layouts"
        if laid_out and not self.quiet()._first_failing(contiguous(case)):
            return [
                finding._replace(property="layout", mistake="upstream-layout", explanation=_LAYOUT)
                for finding in found
            ]
        return found

    def fails_there(self, case: Case, finding: Finding) -> Finding | None:
        """How another case fails, if it does so alike."""
        return finding.among(self.all_there(case))

    def all_there(self, case: Case) -> list[Finding]:
        """How another case fails, if it is one."""
        try:
            return self.findings(case) if accepts(self.pair, case.arguments) else []
        except Exception:  # made something that is no case at all
            return []

    def _is_lost(self, case: Case) -> bool:
        """Whether the forward itself has lost its digits here: of nothing a gradient is right."""
        call = self.call(case)
        try:
            exact = outputs_of(self.pair, in_dtype(call.arguments, torch.float64))
        except Exception:  # a forward that does not take float64
            return False
        return any(
            bool(((call.fields[name] - value).abs() > LOST * value.abs().amax()).any())
            for name, value in exact.items()
            if value.numel()
        )

    def _first_failing(self, case: Case) -> list[Finding]:
        found: list[Finding] = []
        try:
            for finding in findings_of(self, case):
                if finding.property in self.skip:
                    continue
                if found and finding.property != found[0].property:
                    break
                found.append(finding)
        except BackwardRaises as error:  # at a later call than the first
            if not found:
                found.append(Finding("call", None, f"{error}, at a later call", "state", LATER))
        return found

    def crash(self, error: Crashed) -> Finding:
        return Finding("call", None, f"{self.backward} {error}", kind="crash")

    def layout(self, case: Case) -> list[Finding]:
        """Whether the gradients are those of the same numbers laid out contiguously.

        For a sample on which these were judged, and that is too large to judge again.
        """
        try:
            return forked(lambda: list(self._layout(case)))
        except Crashed as error:
            return [self.crash(error)]

    def _layout(self, case: Case) -> Iterator[Finding]:
        call, plain = self.call(case), self.call(contiguous(case))
        expected = self.gradients(plain)
        try:
            gradients = self.gradients(call)
        except BackwardRaises as error:
            yield Finding("layout", None, str(error), "upstream-layout", _LAYOUT)
            return
        for name, value in expected.items():
            if apart(value, gradients[name]):
                message = f"d{name} is another than of the same numbers laid out contiguously"
                yield Finding("layout", name, message, "upstream-layout", _LAYOUT)


def contiguous(case: Case) -> Case:
    """The same numbers laid out contiguously."""
    arguments = {
        name: value.contiguous() if isinstance(value, Tensor) else value
        for name, value in case.arguments.items()
    }
    return case.but(LaidOut(None, "contiguous", Tensor.contiguous), arguments)
