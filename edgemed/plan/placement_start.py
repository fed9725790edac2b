"""Simpler problems on the way to a good first placement, where layers differ in nothing but what formats lose in them.

Hundreds of layers and formats that are nearly alike keep an integer program busy without a good answer. With averaged
errors the layers are alike and devices are found at once; with devices given, formats are.
"""

from __future__ import annotations

from edgemed.plan.placement import LAYER_UNITS, Choice, LayerClass, Layout, PlacementProblem


def with_averaged_errors(problem: PlacementProblem) -> PlacementProblem | None:
    """The problem with one class of the layers that differ in errors only; None where there are no such layers."""
    alike: dict[tuple[Choice, ...], list[LayerClass]] = {}
    for group in problem.classes:
        plain = (choice.model_copy(update={"error": 0.0}) for choice in group.choices)
        alike.setdefault(tuple(plain), []).append(group)
    if len(alike) == len(problem.classes):
        return None
    return problem.model_copy(update={"classes": tuple(_averaged(groups) for groups in alike.values())})


def _averaged(groups: list[LayerClass]) -> LayerClass:
    layers = sorted(number for group in groups for number in group.layers)
    choices = []
    for same in zip(*(group.choices for group in groups), strict=True):
        errors = (choice.error * len(group.layers) for choice, group in zip(same, groups, strict=True))
        choices.append(same[0].model_copy(update={"error": sum(errors) / len(layers)}))
    return LayerClass(name=groups[0].name, layers=tuple(layers), choices=tuple(choices))


def with_devices_of(problem: PlacementProblem, layout: Layout) -> PlacementProblem:
    """The problem where every unit lies on the device that the layout gives it; formats are free."""
    members: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for k, group in enumerate(problem.classes):
        for number in group.layers:
            devices = tuple(placed.device for _, placed in layout.layers[number].units)
            members.setdefault((k, devices), []).append(number)
    classes = []
    for (k, devices), layers in members.items():
        group = problem.classes[k]
        kept = set(zip(LAYER_UNITS, devices, strict=True))
        choices = tuple(choice for choice in group.choices if (choice.unit, choice.device) in kept)
        classes.append(LayerClass(name=group.name, layers=tuple(layers), choices=choices))
    head = tuple(choice for choice in problem.head if choice.device == layout.head.device)
    return problem.model_copy(update={"classes": tuple(classes), "head": head})
