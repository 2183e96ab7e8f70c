"""What the report shows of each dataset of a mixture."""

from collections.abc import Sequence
from dataclasses import dataclass

from lacy_jax.evidence.pages import charts, curves
from lacy_jax.evidence.pages.curves import Chart, Row

COLUMNS = ("training loss", "of facts", "factual", "taken", "validation loss", "of facts", "bits per byte", "ROC area")
_FORMS = {
    "nll/all": curves.three_decimals,
    "nll/factual": curves.three_decimals,
    "share/factual": charts.percent,
    "share/taken": charts.percent,
    "bits_per_byte": curves.three_decimals,
    "roc/factual": curves.three_decimals,
}
_TRAINED = ("nll/all", "nll/factual", "share/factual", "share/taken")
_VALIDATED = ("nll/all", "nll/factual", "bits_per_byte", "roc/factual")


@dataclass(frozen=True)
class Dataset:
    """The last record of a dataset in training and in validation; None where it has none."""

    name: str
    trained: Row | None
    validated: Row | None

    @property
    def cells(self) -> list[str]:
        """Its numbers, one for each of COLUMNS."""
        return [*_cells(self.trained, _TRAINED), *_cells(self.validated, _VALIDATED)]


def datasets_of(rows: Sequence[Row]) -> list[Dataset]:
    """The datasets that a run's log has records of, in the order of their first; [] for a run without a mixture."""
    last: dict[str, dict[str, Row]] = {}
    for row in rows:
        kind, slash, name = str(row["split"]).partition("/")
        if slash and kind in ("train", "validation"):
            last.setdefault(name, {})[kind] = row
    return [Dataset(name, own.get("train"), own.get("validation")) for name, own in last.items()]


def dataset_charts(rows: Sequence[Row], names: Sequence[str]) -> list[Chart]:
    """The loss of each dataset in training and validation."""
    found = []
    for name in names:
        lines = [
            line
            for split in ("train", "validation")
            for line in curves.series(
                [{**row, "split": split} for row in rows if row["split"] == f"{split}/{name}"],
                "nll/all",
                split=split,
                label="training" if split == "train" else "validation",
                role=split,
            )
        ]
        found.append(Chart(name, "", curves.loss_chart(lines)))
    return found


def _cells(row: Row | None, keys: Sequence[str]) -> list[str]:
    if row is None:
        return ["–"] * len(keys)
    return [_FORMS[key](row[key]) if curves.is_number(row.get(key)) else "–" for key in keys]
