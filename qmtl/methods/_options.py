"""MethodOptions: the keys of ``[training]`` that switch methods on."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import model_validator

from qmtl._sections import Section
from qmtl.methods._adversarial import Adversarial
from qmtl.methods._agreement import Agreement
from qmtl.methods._auxiliary import Auxiliary
from qmtl.methods._flatness import Flatness
from qmtl.methods._interpolation import Interpolation
from qmtl.methods._isolation import Isolation
from qmtl.methods._method import MethodSection
from qmtl.methods._saliency import Saliency
from qmtl.methods._unified_loss import UnifiedLoss


class MethodOptions(Section):
    """Methods of multi-task learning, all switched off by default: see `qmtl.methods`.

    Attributes:
        adversarial: train on attacked inputs; see `qmtl.methods.Adversarial`.
        agreement: measure how much of the shared gradient enters the update, and adapt the
            momentum; see `qmtl.methods.Agreement`.
        auxiliary: learned sub-classes; see `qmtl.methods.Auxiliary`.
        flatness: radius within which each task's loss should be flat; see `qmtl.methods.Flatness`.
        isolation: a feature is trained by one task only; see `qmtl.methods.Isolation`.
        interpolation: mixtures of two tasks; see `qmtl.methods.Interpolation`.
        loss: ``unified`` for one squared error for tasks of all kinds; see
            `qmtl.methods.UnifiedLoss`.
        saliency: terms that separate, or align, the tasks' gradients with respect to the features;
            see `qmtl.methods.Saliency`.
    """

    adversarial: Adversarial | None = None
    agreement: Agreement | None = None
    auxiliary: Auxiliary | None = None
    flatness: Flatness | None = None
    isolation: Isolation | None = None
    interpolation: Interpolation | None = None
    loss: UnifiedLoss | None = None
    saliency: Saliency | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        found = dict(content)
        for name, section in cls.method_sections().items():
            value = found.get(name)
            if isinstance(value, bool):
                found[name] = {} if value else None
            elif section.short is not None and not isinstance(value, Mapping | Section | None):
                found[name] = {section.short: value}
        return found

    @model_validator(mode="after")
    def _together(self) -> "MethodOptions":
        for name, method in self.methods().items():
            for other in method.excludes:
                given = getattr(self, other)
                if given != type(self).model_fields[other].default:
                    value = "" if isinstance(given, Section) else f" = {given!r}"
                    raise ValueError(f"{name} does not go together with {other}{value}")
            method.check(self)
            devices = getattr(self, "devices", 1)
            if method.one_process is not None and devices > 1:
                raise ValueError(f"{name} needs devices = 1, got {devices}: {method.one_process}")
        return self

    @classmethod
    def method_sections(cls) -> dict[str, type[MethodSection]]:
        """Return the keys that switch methods on, with their sections."""
        return {
            name: section
            for name, field in cls.model_fields.items()
            for section in get_args(field.annotation)
            if isinstance(section, type) and issubclass(section, MethodSection)
        }

    def methods(self) -> dict[str, MethodSection]:
        """Return the options of the active methods, by key."""
        found = {name: getattr(self, name) for name in type(self).method_sections()}
        return {name: section for name, section in found.items() if section is not None}
