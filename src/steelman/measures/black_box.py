"""Transfers in the shape of the papers' tables."""

from collections.abc import Sequence

from steelman.measures import minimum, worst_case
from steelman.measures.paper_table import Cell, PaperTable, TableColumn
from steelman.measures.transfer import Transfer
from steelman.report.explained import explained
from steelman.table.table import Evaluation

UNATTACKED, WORST = "unattacked", "worst of the black boxes"


def transfer_table(transfer: Transfer) -> PaperTable:
    """Accuracies of the models in the columns on images crafted on the models in the rows.

    The last rows have the unattacked images, and the worst case by image over the sources that do not know the target.

    Reference: the shape is that of Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses
    against adversarial attacks", AISec 2017, table 1.
    """
    rows: list[tuple[str, Sequence[Cell]]] = [*zip(transfer.sources, transfer.accuracy, strict=True)]
    rows.append((UNATTACKED, transfer.clean))
    if any(transfer.worst):
        rows.append((WORST, transfer.worst))
    white = [f"{source} on {target}" for source, target in sorted(transfer.white)]
    return PaperTable(
        f"{transfer.attack}, crafted on the rows, tested on the columns." + _whites(white),
        "Crafted on",
        tuple(TableColumn(name, better=None) for name in transfer.targets),
        tuple(name for name, _ in rows),
        tuple(tuple(cells) for _, cells in rows),
    )


def _whites(pairs: Sequence[str]) -> str:
    return f" White boxes: {', '.join(pairs)}." if pairs else ""


def black_box_table(transfers: Sequence[Transfer], sources: Sequence[str] | None = None) -> PaperTable:
    """Models in the rows, and their accuracies under attacks that were crafted on others.

    transfers  one for each attack, of the same targets
    sources    some of the surrogates; default: all. A surrogate that knows the target leaves an empty cell

    Of one surrogate, a column per attack; of several, a group of columns per attack. Where all attacks have one norm
    and radius, Min is the lowest of a row, and the worst case counts image by image.

    Reference: the shapes are those of Zantedeschi, Nicolae and Rawat's tables 4 and 5 (see `transfer_table`), and of
    L2L-DA's table 3 (see the card of `L2LDA`).

    Raises:
        ValueError: no transfers, or they are of different targets; there is no such source.
    """
    if not transfers:
        raise ValueError("a black-box table needs at least one transfer")
    chosen = list(dict.fromkeys(name for each in transfers for name in each.sources)) if sources is None else sources
    for each in transfers:
        if each.targets != transfers[0].targets:
            raise ValueError(
                f"{each.attack} was tested on {', '.join(each.targets)} and {transfers[0].attack} on "
                f"{', '.join(transfers[0].targets)}; give transfers of the same targets"
            )
        for name in chosen:
            if name not in each.sources:
                raise ValueError(f"{each.attack} was not crafted on {name}; its sources are {', '.join(each.sources)}")
    pairs = [(each, source) for each in transfers for source in chosen]
    columns = [
        TableColumn(each.attack) if len(chosen) == 1 else TableColumn(source, each.attack) for each, source in pairs
    ]
    rows: list[tuple[Cell, ...]] = []
    summed = _one_threat(transfers) and len(pairs) > 1
    for place, target in enumerate(transfers[0].targets):
        cells: list[Cell] = [
            each.accuracy[each.sources.index(source)][place] if source in each.black(target) else None
            for each, source in pairs
        ]
        if summed:
            names = [each.from_source(source) for each, source in pairs if source in each.black(target)]
            whole = _joined([each.tables[target] for each in transfers])
            cells += [minimum(whole, names), worst_case(whole, names)] if names else [None, None]
        rows.append(tuple(cells))
    if summed:
        columns += [TableColumn("Min"), TableColumn("Worst case")]
    said = f"Crafted on {chosen[0]}, tested on the rows." if len(chosen) == 1 else "Black box, tested on the rows."
    notes = tuple(explained(column.label for column in columns))
    return PaperTable(said, "Model", tuple(columns), transfers[0].targets, tuple(rows), notes)


def _one_threat(transfers: Sequence[Transfer]) -> bool:
    found = set()
    for each in transfers:
        record = next(iter(each.tables.values())).record(each.from_source(each.sources[0]))
        found.add((record.norm, record.eps))
    return len(found) == 1 and all(norm is not None and eps is not None for norm, eps in found)


def _joined(tables: Sequence[Evaluation]) -> Evaluation:
    whole = tables[0]
    for table in tables[1:]:
        whole = whole + table
    return whole
