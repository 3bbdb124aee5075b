"""Lists as bookkeepers in Germany, Norway and France write them, from the suggestion to the claims."""

from decimal import Decimal
from pathlib import Path

import pytest

from cli.imports.mapping import read_mapping
from cli.imports.recognition import open_record_file
from cli.imports.suggestion import suggested_mapping
from cli.imports.values import RowReader

GERMANY = (
    "Reisekosten 2024\n"
    "Stand: 31.01.2024\n"
    "\n"
    "Stapel;Belegdatum;Beleg-Nr.;Betrag;Währung;Bearbeiter;Bemerkung\n"
    "1;31.01.24;000417;1.234,50;EUR;Anna;\n"
    "1;31.01.24;000418;48,50-;EUR;Anna;Gutschrift\n"
    "1;31.01.24;000419;12,- €;EUR;Anna;\n"
    "1;31.01.24;000420;- 7,00 Euro;;Anna;\n"
    "2;29.02.24;000421;1234.50;EUR;Anna;falsches Zeichen\n"
    "2;30.02.24;000422;1,00;EUR;Anna;kein Tag\n"
    "2;29.02.24;1,23E+05;1,00;EUR;Anna;gerundet\n"
    "2;29.02.24;#WERT!;1,00;EUR;Anna;\n"
)
NORWAY = (
    "# eksportert fra regnskapet\n"
    "Eksportnr\tDato\tBilagsnr\tBeløp\tValuta\tMerknad\n"
    "501\t15.03.2023\t10231\t1\u00a0250,00\tNOK\t\n"
    "501\t15.03.2023\t10232\tkr 349,50\tNOK\t\n"
    "501\t15.03.2023\t10233\t\u2212150,-\tNOK\t\n"
    "501\t15.03.2023\t10234\t4 020,75 kr\tNOK\t\n"
    "502\t31.03.2023\t10235\t12 34,50\tNOK\t\n"
    "502\t31.03.2099\t10236\t1,00\tNOK\t\n"
)
FRANCE = (
    "Notes de frais;;;;\n"
    "Édité le 31/01/2024;;;;\n"
    "N° de lot;Date d\u2019export;N° pièce;Montant TTC;Devise\n"
    "L1;31/01/2024;NF-1;1\u202f234,56;EUR\n"
    "L1;31/01/2024;NF-2;1\u2009234,56 €;EUR\n"
    "L1;31/01/2024;NF-3;(48,50);EUR\n"
    "L1;31/01/2024;NF-4;\u201312,00 €;\n"
    "L2;31/01/2024;NF-5;12,00 $;\n"
    "L2;31/01/2024;NF-6;12,00 USD;EUR\n"
    "L2;01/31/2024;NF-7;12,00;EUR\n"
)

LISTS = {
    "Germany": (
        GERMANY.encode("windows-1252"),
        {"000417": "1234.50 EUR", "000418": "-48.50 EUR", "000419": "12.00 EUR", "000420": "-7.00 EUR"},
        [
            (9, "Betrag: is no amount with the decimal sign ',' and the thousands sign '.'"),
            (10, "Belegdatum: is no time in one of the forms %d.%m.%y, ISO 8601"),
            (11, "Beleg-Nr.: is a number that a spreadsheet has rounded; take it from the source again"),
            (12, "Beleg-Nr.: is #WERT!, which a spreadsheet shows in place of a value"),
        ],
    ),
    "Norway": (
        NORWAY.encode("utf-8-sig"),
        {"10231": "1250.00 NOK", "10232": "349.50 NOK", "10233": "-150.00 NOK", "10234": "4020.75 NOK"},
        [
            (7, "Beløp: is no amount with the decimal sign ',' and the thousands sign ' '"),
            (8, "Dato: is in the future"),
        ],
    ),
    "France": (
        FRANCE.encode("utf-16"),
        {
            "NF-1": "1234.56 EUR",
            "NF-2": "1234.56 EUR",
            "NF-3": "-48.50 EUR",
            "NF-4": "-12.00 EUR",
            "NF-5": "12.00 None",
        },
        [
            (9, "Montant TTC: is in USD, and the row says EUR"),
            (10, "Date d\u2019export: is no time in one of the forms %d/%m/%Y, ISO 8601"),
        ],
    ),
}


@pytest.mark.parametrize(("content", "amounts", "problems"), LISTS.values(), ids=LISTS)
def test_a_list_is_read_or_refused_with_row_and_column(
    tmp_path: Path, content: bytes, amounts: dict[str, str], problems: list[tuple[int, str]]
) -> None:
    path, mapping = tmp_path / "list.csv", tmp_path / "mapping.toml"
    path.write_bytes(content)
    toml = suggested_mapping(path).toml
    for decided in ('orgId = "', 'date_formats = ["%d/%m/%Y"]'):
        toml = toml.replace(f"# {decided}", decided)
    mapping.write_text(toml, encoding="utf-8")
    columns = read_mapping(mapping)
    file = open_record_file(path, columns)
    reader = RowReader(columns, file.first_day)
    found: dict[str, str] = {}
    refused: list[tuple[int, str]] = []
    for row in file.rows():
        facts = reader.read(row)
        refused += [(row.number, problem) for problem in facts.problems]
        if not facts.problems:
            [claim] = facts.claims
            found[claim["claimId"]] = f"{Decimal(claim['amount']):.2f} {claim.get('currency')}"
    assert (found, refused) == (amounts, problems)
