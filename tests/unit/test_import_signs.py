"""Amounts whose sign stands in a column of its own, and amounts that were taken back."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cli.imports.mapping import Mapping
from cli.imports.plan import ImportPlan, Plan
from cli.imports.recognition import open_record_file
from cli.imports.records import EXCEL_FIRST_DAY, Cell, Row
from cli.imports.values import RowFacts, RowReader

MAPPING: dict[str, Any] = {
    "run_key": ["run"],
    "columns": {"claimId": "claim", "createdAt": "at", "amount": "amount", "sign": "S/H"},
    "constants": {"orgId": "org-1", "triggeredBy": "u-1", "format": "csv", "currency": "EUR"},
    "words": {"sign": {"S": "plus", "H": "minus"}},
    "decimal_sign": ",",
}


def read(cells: dict[str, Cell], **others: Any) -> RowFacts:
    least: dict[str, Cell] = {"run": "1", "claim": "c-1", "at": "2024-01-31"}
    mapping = Mapping.model_validate({**MAPPING, **others})
    return RowReader(mapping, EXCEL_FIRST_DAY).read(Row(2, {**least, **cells}, []))


@pytest.mark.parametrize(
    ("cells", "amount"),
    [
        ({"amount": "19,00", "S/H": "S"}, "19.00"),
        ({"amount": "19,00", "S/H": " h "}, "-19.00"),
        ({"amount": Decimal("19.5"), "S/H": "H"}, "-19.50"),
        ({"amount": "0,00", "S/H": "H"}, "0.00"),
        ({"amount": "+19,00 EUR", "S/H": "minus"}, "-19.00"),
    ],
)
def test_an_amount_has_the_sign_of_its_own_column(cells: dict[str, Cell], amount: str) -> None:
    facts = read(cells)
    assert (facts.problems, facts.claims[0]["amount"]) == ([], amount)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"amount": "19,00", "S/H": ""}, "S/H: is blank, and says whether the amount is plus or minus"),
        ({"amount": "19,00", "S/H": "X"}, "S/H: 'X' is none of the words that the mapping knows"),
        ({"amount": "-19,00", "S/H": "H"}, "S/H: says the sign of an amount that has a minus itself"),
    ],
)
def test_a_sign_that_may_mean_two_things_is_refused(cells: dict[str, Cell], problem: str) -> None:
    assert read(cells).problems == [problem]


def test_a_row_without_an_amount_needs_no_sign_and_a_constant_is_that_of_blank_cells() -> None:
    assert read({"amount": "", "S/H": ""}).problems == []
    facts = read({"amount": "5,00", "S/H": ""}, constants={**MAPPING["constants"], "sign": "minus"})
    assert (facts.problems, facts.claims[0]["amount"]) == ([], "-5.00")


SIDES = {"claimId": "claim", "createdAt": "at", "debit": "Soll", "credit": "Haben"}


@pytest.mark.parametrize(
    ("cells", "amount"),
    [
        ({"Soll": "19,00", "Haben": ""}, "19.00"),
        ({"Haben": "19,00"}, "-19.00"),
        ({"Soll": " ", "Haben": Decimal("19.5")}, "-19.50"),
        ({"Haben": "0,00"}, "0.00"),
        ({"Soll": '=""', "Haben": "5,00"}, "-5.00"),
        ({"Soll": "0,00", "Haben": "5,00"}, "-5.00"),
        ({"Soll": "1,00", "Haben": "0,00"}, "1.00"),
        ({"Soll": "0,00", "Haben": "0,00"}, "0.00"),
        ({"Soll": '=""'}, None),
        ({}, None),
    ],
)
def test_an_amount_stands_in_one_of_two_columns_or_in_none(cells: dict[str, Cell], amount: str | None) -> None:
    facts = read(cells, columns=SIDES)
    assert (facts.problems, facts.claims[0].get("amount")) == ([], amount)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"Soll": "1,00", "Haben": "0,01"}, "Soll and Haben: both have an amount"),
        ({"Soll": "0,00", "Haben": "x"}, "Haben: is no amount with the decimal sign ',' and no thousands sign"),
        ({"Haben": "-1,00"}, "Haben: has a minus, and the column itself says the sign"),
        ({"Soll": "x"}, "Soll: is no amount with the decimal sign ',' and no thousands sign"),
        ({"Soll": "#REF!"}, "Soll: is #REF!, which a spreadsheet shows in place of a value"),
    ],
)
def test_an_amount_in_both_columns_or_one_that_cannot_be_read_is_refused(cells: dict[str, Cell], problem: str) -> None:
    assert read(cells, columns=SIDES).problems == [problem]


@pytest.mark.parametrize(
    ("columns", "constants", "sentence"),
    [
        ({"debit": "Soll"}, {}, "must give both debit and credit"),
        ({"debit": "Soll"}, {"credit": "1"}, "must give both debit and credit"),
        ({"debit": "Soll", "credit": "Soll"}, {}, "must be two columns"),
        ({"debit": "Soll", "credit": "Haben", "amount": "amount"}, {}, "in place of amount and sign"),
    ],
)
def test_debit_and_credit_are_two_columns_in_place_of_the_amount(
    columns: dict[str, str], constants: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(
            {},
            columns={"claimId": "claim", "createdAt": "at", **columns},
            constants={**MAPPING["constants"], **constants},
        )


async def planned(path: Path) -> Plan:
    mapping = Mapping.model_validate(MAPPING)
    with ImportPlan("s", mapping, open_record_file(path, mapping), path.parent, with_alerts=False) as importing:
        importing.read_rows(lambda done, total: None)
        await importing.build(None, lambda done, total: None)
        return importing.plan


@pytest.mark.parametrize(
    ("amounts", "too_much"),
    [
        (["50 S", "50 H"], 0),  # taken back
        (["50 H", "50 S"], 0),
        (["50 S", "50 H", "50 S"], 0),  # and paid after that
        (["50 S", "50 S", "50 H"], 0),
        (["50 S", "50 S"], 50),
        (["50 S", "", "50 H"], 0),
        (["50 H", "50 H"], 0),
    ],
)
async def test_what_was_taken_back_makes_what_went_out_too_much_smaller(
    tmp_path: Path, amounts: list[str], too_much: int
) -> None:
    path = tmp_path / "file.csv"
    rows = [f"{number};c;2024-01-0{number};{each.replace(' ', ';') or ';'}" for number, each in enumerate(amounts, 1)]
    rows += ["8;d;2024-01-08;7;S", "9;d;2024-01-09;7;S"]  # another claim, which does not become cheaper by it
    path.write_text("\n".join(["run;claim;at;amount;S/H", *rows]) + "\n")
    plan = await planned(path)
    assert (plan.double_exports, plan.double_amounts) == (2, {"EUR": Decimal(too_much + 7)})
