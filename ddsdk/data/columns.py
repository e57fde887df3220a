"""Choice of the columns of pictures, texts and labels in a table, by name and type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ddsdk.data.datasets import LABEL_NAMES, usual_name
from ddsdk.foundation import note, require

PICTURE_COLUMNS = ("image", "images", "img", "picture", "photo", "pixel_values")
TEXT_COLUMNS = ("text", "sentence", "content", "review")


def choose_column(
    option: str,
    given: str | None,
    types: Mapping[str, str],
    fault: Callable[[str], str | None],
    usual: Sequence[str],
    where: str,
) -> str:
    """Return the name of a column: the given one, the first with a usual name, or the only one of a fitting type.

    A column with a usual name and another type is refused; no other column takes its place.

    Args:
        option: Name of the option that names the column, such as "label_column".
        given: Name of the column; None finds it.
        types: Types of all columns by name, as they are shown in messages.
        fault: Function from a column to a rule that its type breaks; None for a fitting type.
        usual: Usual names in the order of preference.
        where: Name of the table in messages.

    Raises:
        ValueError: If the column has another type, or none or several columns fit.
    """
    name = given if given is not None else usual_name(list(types), usual)
    if name is not None:
        require(name in types, option, f"be one of the columns {list(types)} of {where}", name)
        rule = fault(name)
        if rule is not None:
            shown = f"column {name!r} of {where}"
            raise ValueError(f"{shown} must {rule}, or pass another {option}, got the type {types[name]}")
        return name
    fitting = [column for column in types if fault(column) is None]
    if len(fitting) == 1:
        note(f"column {fitting[0]!r} of {where} is read as {option.removesuffix('_column')}")
        return fitting[0]
    shown_types = {column: types[column] for column in types}
    raise ValueError(f"{option} must be given for {where}, got {len(fitting)} fitting columns of {shown_types}")


def choose_label(given: str | None, types: Mapping[str, str], fault: Callable[[str], str | None], where: str) -> str:
    """Return the name of the column of labels, see `choose_column`."""
    return choose_column("label_column", given, types, fault, LABEL_NAMES, where)
