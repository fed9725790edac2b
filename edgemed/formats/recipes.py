"""Recipes: which format every tensor of a model gets, by its role and its layer, and why when it gets another.

A recipe is a TOML file; those that are shipped lie in the folder `recipes`. Its rules are read in order, and a tensor
takes the first that holds for it. A rule with a condition (`layers`, `heads_per_kv_head`) leaves tensors to the rules
after it; one without takes all that are left, so every role must end in one, and no rule may stand behind it. An
embedding that is also the head is bound as the head.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Protocol, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Record, digest_of
from edgemed.core.tensor_types import Role
from edgemed.formats.targets import FormatName, Target, fitting_type, type_of

ROLES: tuple[Role, ...] = get_args(Role)

GroupName = Literal["attention", "feed_forward", "small", "all"]
GROUPS: Mapping[str, tuple[Role, ...]] = {
    "attention": ("attention_q", "attention_k", "attention_v", "attention_qkv", "attention_output"),
    "feed_forward": ("ffn_gate", "ffn_up", "ffn_gate_up", "ffn_down"),
    "small": ("norm", "bias", "rope", "other"),
    "all": ROLES,
}
"""Names for several roles together."""
_MEMBERS: Mapping[str, tuple[Role, ...]] = {**GROUPS, **{role: (role,) for role in ROLES}}

_OUTSIDE_LAYERS = frozenset({"embedding", "head", "rope"})
_MAX_FILE_BYTES = 256 * 1024


def _share(text: str) -> str:
    top, slash, bottom = text.partition("/")
    if not (slash and top.isdecimal() and bottom.isdecimal() and 0 < int(top) <= int(bottom) <= 1000):
        raise ValueError('a share is written as "1/8"')
    return text


Share = Annotated[str, AfterValidator(_share)]


class LayerChoice(Record):
    """Some of a model's layers, by their place; a layer is chosen when any of the fields says so.

    With first = "1/8", last = "1/8", every = 3 it is llama.cpp's `use_more_bits`.
    """

    first: Share | None = None
    """The first layers, this share of them rounded down."""
    last: Share | None = None
    """The last layers, this share of them rounded up."""
    every: int | None = Field(default=None, ge=2)
    """Every so-manieth of the layers that come after `first`: 3 is the third, the sixth..."""
    numbers: tuple[int, ...] = ()
    """These layers, from 0; -1 is the last."""

    @model_validator(mode="after")
    def _chooses_something(self) -> LayerChoice:
        if self.first is None and self.last is None and self.every is None and not self.numbers:
            raise ValueError("it chooses no layers: give first, last, every or numbers")
        return self

    def holds(self, layer: int, n_layers: int) -> bool:
        """Whether that layer, from 0, is one of them."""
        first = _part(self.first, n_layers)
        return (
            layer < first
            or layer >= n_layers + _part(self.last, -n_layers)  # of the negative, rounding down is rounding up
            or (self.every is not None and (layer - first) % self.every == self.every - 1)
            or layer in self.numbers
            or layer - n_layers in self.numbers
        )


def _part(share: str | None, count: int) -> int:
    if share is None:
        return 0
    top, _, bottom = share.partition("/")
    return count * int(top) // int(bottom)


class Rule(Record):
    """One line of a recipe: these roles, in these layers, get this format."""

    roles: tuple[Role | GroupName, ...] = Field(min_length=1)
    layers: LayerChoice | None = None
    """Only in these layers."""
    heads_per_kv_head: int | None = Field(default=None, ge=2)
    """Only in models where at least so many query heads share a key-value head."""
    format: FormatName
    on: dict[Target, FormatName] = Field(default_factory=dict)
    """Another format for some targets."""

    @property
    def conditional(self) -> bool:
        """Whether it may leave tensors of its roles to later rules."""
        return self.layers is not None or self.heads_per_kv_head is not None

    @property
    def expanded(self) -> tuple[Role, ...]:
        """Its roles, groups replaced by what they stand for."""
        return tuple(role for name in self.roles for role in _MEMBERS[name])

    def format_for(self, target: Target) -> FormatName:
        """Its format for one kind of file."""
        return self.on.get(target, self.format)

    def holds(self, layer: int | None, n_layers: int, heads_per_kv_head: int) -> bool:
        """Whether its conditions are met by a tensor of that layer."""
        if self.heads_per_kv_head is not None and heads_per_kv_head < self.heads_per_kv_head:
            return False
        return self.layers is None or (layer is not None and self.layers.holds(layer, n_layers))


class QuantRecipe(Record):
    """A format for every role."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")
    description: str = Field(min_length=1)
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_role_once(self) -> QuantRecipe:
        faults: list[str] = []
        closed: dict[str, int] = {}
        seen: set[tuple[str, str]] = set()
        for number, rule in enumerate(self.rules):
            faults += (f"rules.{number}.{fault}" for fault in _rule_faults(rule, closed, seen))
            if not rule.conditional:
                closed |= dict.fromkeys(rule.expanded, number)
        if missing := [role for role in ROLES if role not in closed]:
            faults.append(f"rules: no rule without a condition for {', '.join(missing)}")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def digest(self) -> str:
        """SHA-256 of what it does: everything but the description."""
        return digest_of(self.model_dump(mode="json", exclude={"description"}))

    def format_of(self, tensor: Tensor, tied: bool, n_layers: int, heads_per_kv_head: int, target: Target) -> str:
        """The format of one tensor."""
        role = "head" if tied and tensor.role == "embedding" else tensor.role
        return next(
            rule.format_for(target)
            for rule in self.rules
            if role in rule.expanded and rule.holds(tensor.layer, n_layers, heads_per_kv_head)
        )


def _rule_faults(rule: Rule, closed: Mapping[str, int], seen: set[tuple[str, str]]) -> Iterable[str]:
    roles = rule.expanded
    condition = digest_of(rule.model_dump(mode="json", include={"layers", "heads_per_kv_head"}))
    for role, count in Counter(roles).items():
        if count > 1:
            yield f"roles: {role} is named twice"
        if role in closed:
            yield f"roles: {role} is already bound by rules.{closed[role]}"
        elif (role, condition) in seen:
            yield f"roles: {role} is already bound by a rule with the same condition"
        elif rule.layers is not None and role in _OUTSIDE_LAYERS:
            yield f"layers: {role} lies in no layer"
        seen.add((role, condition))
    for target, name in rule.on.items():
        try:
            type_of(name, target)
        except UsageError as error:
            yield f"on.{target}: {error.what.rstrip('.')}"


class Tensor(Protocol):
    """What of a tensor decides about its format."""

    @property
    def name(self) -> str:
        """Under which it is bound."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def role(self) -> Role:
        """What it does."""

    @property
    def layer(self) -> int | None:
        """Its layer from 0; None outside."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One tensor and its format."""

    name: str
    format: str
    """As the recipe names it."""
    wanted: str
    """What that is in this target."""
    type: str
    """What it gets: `wanted`, or the next type that its rows fit."""
    reason: str = ""
    """Why it is not `wanted`; empty when it is."""


def bind(
    recipe: QuantRecipe,
    tensors: Sequence[Tensor],
    n_layers: int,
    target: Target = "gguf",
    assignment: Mapping[str, str] | None = None,
) -> tuple[Bound, ...]:
    """Exactly one format for every tensor, in their order.

    `assignment` names formats tensor by tensor and goes before the recipe's rules. Raises UsageError, with all faults,
    for a format that the target does not have, and for an assignment to tensors that are not there.
    """
    assigned = assignment or {}
    names = [tensor.name for tensor in tensors]
    faults = [f"{name} comes {count} times" for name, count in Counter(names).items() if count > 1]
    faults += [f"there is no tensor {name}" for name in assigned if name not in set(names)]
    tied = all(tensor.role != "head" for tensor in tensors)
    shared = heads_per_kv_head(tensors)
    bound: list[Bound] = []
    for tensor in tensors:
        name = assigned.get(tensor.name) or recipe.format_of(tensor, tied, n_layers, shared, target)
        try:
            wanted = type_of(name, target)
        except UsageError as error:
            faults.append(f"{tensor.name}: {error.what}")
            continue
        kind, reason = fitting_type(wanted, tensor.shape, target)
        bound.append(Bound(tensor.name, name, wanted, kind, reason))
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UsageError(
            f"The recipe {recipe.name} cannot be used for {target}: {'; '.join(faults[:3])}{more}",
            next_step="choose a recipe of abstract formats: f16, int8, int4, nf4-int8",
        )
    return tuple(bound)


def heads_per_kv_head(tensors: Sequence[Tensor]) -> int:
    """Query heads that share one key-value head, by the rows of a layer's projections; 1 where they do not say."""
    shapes = {tensor.role: tensor.shape for tensor in reversed(tensors) if len(tensor.shape) == 2}
    if "attention_q" in shapes and "attention_k" in shapes:
        return max(1, shapes["attention_q"][0] // shapes["attention_k"][0])
    fused = shapes.get("attention_qkv") or shapes.get("attention_v")  # values alone: the fused matrix by its last part
    if fused and "attention_output" in shapes:
        queries = shapes["attention_output"][1]
        keys = (fused[0] - queries) // 2
        return max(1, queries // keys) if keys > 0 else 1
    return 1


@cache
def shipped_recipes() -> Mapping[str, QuantRecipe]:
    """The recipes that come with the program, by name. Raises UsageError when a file of them is damaged."""
    folder = resources.files("edgemed.formats").joinpath("recipes")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    found = [read_recipe(file.read_text(encoding="utf-8"), file.name) for file in files]
    return {recipe.name: recipe for recipe in found}


def find_recipe(name: str | Path) -> QuantRecipe:
    """The shipped recipe of that name, or the one in that file.

    Raises UsageError with the names that there are, or with the file and the field at fault.
    """
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return read_recipe(_text_of(path), str(path))
    known = ", ".join(shipped)
    if str(name) == "auto":
        raise UsageError(
            f"The recipe 'auto' chooses formats by calibration, which is not available yet; now: {known}.",
            next_step="--recipe nf4-int8",
        )
    raise UsageError(
        f"There is no recipe {str(name)!r}; available: {known}, or a file of your own ending in .toml.",
        next_step="--recipe q8_0",
    )


def read_recipe(text: str, name: str) -> QuantRecipe:
    """The recipe in a TOML text; `name` is the file's. Raises UsageError with file and field."""
    try:
        return QuantRecipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The recipe {name} is no valid TOML: {error}.", next_step="mend that line") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}" for fault in error.errors())
        raise UsageError(f"The recipe {name} cannot be used: {faults}.", next_step="mend those fields") from error


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            raise UsageError(f"The recipe {path} is no file.", next_step="check the path")
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise UsageError(f"The recipe {path} is larger than {_MAX_FILE_BYTES} bytes.", next_step="check the path")
        return raw.decode("utf-8")
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror}.", next_step="check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The recipe {path} is no UTF-8 text.", next_step="save it as UTF-8") from error
