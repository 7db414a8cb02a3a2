"""Know which numbers of a transformer go together: the channels of its MLPs, its heads, its hidden channels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.compressors.prune.sizes import KNOWN, Sizes, sizes_of
from attar.core.places import PROJECTIONS
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Cut:
    """Point at a dimension of a parameter that shrinks with a group's units.

    Args:
        name: of the parameter.
        dim: the dimension.
        units: how many equal blocks it has: one for each unit of the group, or for each of its KV heads.
    """

    name: str
    dim: int
    units: int


@dataclass(frozen=True)
class Group:
    """Hold units that are chosen among each other, and all that goes when one of them goes.

    Args:
        field: of the configuration, that says how many units there are.
        units: how many there are.
        cuts: where the units lie.
        reads: names of the linear layers that read the units.
    """

    field: str
    units: int
    cuts: tuple[Cut, ...]
    reads: tuple[str, ...]


def mlp_groups(network: Any) -> list[Group]:
    """Return a group for each MLP: its units are its inner channels.

    Raises:
        AttarError: the architecture is unknown.
    """
    found = []
    for field, count in sizes_of(network.config.to_dict()).mlp.items():
        changed = _changes(network, {field: count - 1})
        if not changed or any(before != count or after != count - 1 for before, after in changed.values()):
            raise _unknown(network, f"not all its {field} are single channels of an MLP")
        cuts: list[Cut] = []
        for name, dim in changed:
            cuts.append(Cut(name, dim, count))
            if dim == 1:  # the layer that reads them is registered last
                found.append(Group(field, count, tuple(cuts), (_owner(name),)))
                cuts = []
        if cuts:
            raise _unknown(network, f"nothing reads the channels of {cuts[0].name}")
    return found


def attention_groups(network: Any) -> list[Group]:
    """Return a group for each attention: its units are its query heads.

    The attentions that share a table of relative positions with a column for each head are one group.

    Raises:
        AttarError: the architecture is unknown.
    """
    sizes = sizes_of(network.config.to_dict())
    groups, shared = [], _shared_tables(network, sizes)
    for linears in _attentions(network):
        field = _field(linears[-1][0], sizes)
        count, width = sizes.heads[field], sizes.width[field]
        cuts = []
        for name, part in linears:
            dim = 1 if part is linears[-1][1] else 0
            is_query = dim == 1 or name.rpartition(".")[2] in PROJECTIONS["query"]
            units = count if is_query else sizes.kv_heads if sizes.family.kv_heads else count
            if part.weight.shape[dim] != units * width:
                raise _unknown(network, f"{name} is no projection of {units} heads of {width} channels")
            cuts.append(Cut(f"{name}.weight", dim, units))
            if dim == 0 and part.bias is not None:
                cuts.append(Cut(f"{name}.bias", 0, units))
        groups.append(Group(field, count, tuple(cuts), (linears[-1][0],)))
    if not groups:
        raise _unknown(network, "it has no attention with projections of its own for query, key and value")
    return _merged(groups, shared)


def hidden_group(network: Any) -> Group:
    """Return the group whose units are the channels between the layers.

    Raises:
        AttarError: the architecture is unknown, or something in it depends on the hidden size besides its shapes.
    """
    sizes = sizes_of(network.config.to_dict())
    _refuse_scaled(network)
    step = sizes.together
    fewer = {field: count - step // sizes.width[field] for field, count in sizes.heads.items()} if step > 1 else {}
    heads = {(cut.name, cut.dim) for group in attention_groups(network) for cut in group.cuts}
    own = set() if sizes.family.width else heads
    changed = _changes(network, {sizes.family.hidden: sizes.hidden - step, **fewer})
    places = [place for place in changed if place not in own]
    if any(changed[place] != (sizes.hidden, sizes.hidden - step) for place in places):
        raise _unknown(network, "not all parts with hidden channels have one for each")
    linears = {name for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)}
    reads = [_owner(name) for name, dim in places if dim == 1 and _owner(name) in linears]
    return Group(sizes.family.hidden, sizes.hidden, tuple(Cut(*place, sizes.hidden) for place in places), tuple(reads))


def shapes(network: Any, changes: Mapping[str, int]) -> dict[str, torch.Size]:
    """Return the shapes of all that a network would hold if its configuration said so; no memory is taken.

    Args:
        network: a model of `transformers`.
        changes: field of the configuration -> value.

    Raises:
        AttarError: the library cannot make such a network.
    """
    from transformers import initialization

    config = changed_config(network, changes)
    try:
        with torch.device("meta"), initialization.no_init_weights():
            state = type(network)(config).state_dict()
    except (ValueError, TypeError, RuntimeError) as error:
        raise AttarError(
            f"{type(network).__name__} cannot be made with {dict(changes)}: {str(error).splitlines()[0]} {KNOWN}"
        ) from error
    return {name: tensor.shape for name, tensor in state.items()}


def changed_config(network: Any, changes: Mapping[str, int]) -> Any:
    """Return a copy of a network's configuration with some fields set, and the width of a head named."""
    config = copy.deepcopy(network.config)
    sizes = sizes_of(config.to_dict())
    if sizes.family.width:  # else the library divides hidden size and heads, of which either can change
        setattr(config, sizes.family.width, next(iter(sizes.width.values())))
    for field, value in changes.items():
        setattr(config, field, value)
    return config


def _changes(network: Any, changes: Mapping[str, int]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return ``(parameter, dimension)`` -> sizes before and after, of what a change of the configuration changes."""
    before, after = shapes(network, {}), shapes(network, changes)
    return {
        (name, dim): (size, after[name][dim])
        for name, shape in before.items()
        for dim, size in enumerate(shape)
        if after[name][dim] != size
    }


def _attentions(network: Any) -> Iterator[list[tuple[str, Any]]]:
    """Yield the three projections of each attention and the linear layer after them, with their names."""
    known = {name for names in PROJECTIONS.values() for name in names}
    held: list[tuple[str, Any]] = []
    for name, part in network.named_modules():
        if not isinstance(part, torch.nn.Linear):
            continue
        held.append((name, part))
        if name.rpartition(".")[2] not in known:
            if len(held) == 4:
                yield held
            held = []


def _field(name: str, sizes: Sizes) -> str:
    """Return the field that says the heads of an attention: the decoder's, where it has one of its own."""
    side = "decoder" if "decoder." in name else "encoder"
    return next((field for field in sizes.heads if field.startswith(side)), next(iter(sizes.heads)))


def _shared_tables(network: Any, sizes: Sizes) -> list[Cut]:
    """Return the tables that have a column for each head and are no part of a projection."""
    if not sizes.family.width:
        return []
    (field, count), fewer_kv = next(iter(sizes.heads.items())), {}
    step = count // sizes.kv_heads
    if sizes.family.kv_heads:
        fewer_kv = {sizes.family.kv_heads: sizes.kv_heads - 1}
    changed = _changes(network, {field: count - step, **fewer_kv})
    known = {f"{name}.{kind}" for linears in _attentions(network) for name, _ in linears for kind in ("weight", "bias")}
    rest = [place for place in changed if place[0] not in known]
    if any(changed[place] != (count, count - step) for place in rest):
        raise _unknown(network, f"{rest[0][0]} depends on the number of heads")
    return [Cut(name, dim, count) for name, dim in rest]


def _merged(groups: Sequence[Group], tables: Sequence[Cut]) -> list[Group]:
    """Return the groups, those that share a table as one."""
    places = [_wild(group.reads[0]) for group in groups]
    found, left = [], list(range(len(groups)))
    for table in tables:
        place = _wild(_owner(table.name)).rpartition(".")[0]
        members = [i for i in left if places[i].rpartition(".")[0] == place]
        left = [i for i in left if i not in members]
        cuts = [cut for i in members for cut in groups[i].cuts]
        first = groups[members[0]]
        found.append(
            Group(first.field, first.units, (*cuts, table), tuple(read for i in members for read in groups[i].reads))
        )
    return [*found, *(groups[i] for i in left)]


def _wild(name: str) -> str:
    """Return a path with a star for its first number, which is the layer's."""
    parts = name.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts))
    return ".".join("*" if i == place else part for i, part in enumerate(parts))


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _refuse_scaled(network: Any) -> None:
    kind = type(network).__name__
    for field in ("scale_embedding", "scale_decoder_outputs"):
        if getattr(network.config, field, False):
            raise AttarError(
                f"hidden channels of {kind} cannot be cut: its config says {field}, a factor made of the hidden size. "
                "Cut mlp channels, heads or layers."
            )
    unsaved = getattr(network, "_keys_to_ignore_on_save", None) or ()
    if any("position" in name for name in unsaved):
        raise AttarError(
            f"hidden channels of {kind} cannot be cut: its positions are computed from the hidden size, not saved. "
            "Cut mlp channels, heads or layers."
        )


def _unknown(network: Any, why: str) -> AttarError:
    return AttarError(f"Parts of {type(network).__name__} cannot be cut: {why}. {KNOWN}")
