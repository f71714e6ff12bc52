"""Answers in completions: one or none, in time linear in the text, and no number for what only looks like one."""

from decimal import Decimal
from fractions import Fraction

import pytest

from tpo_dist.tasks.extraction import boxed, flexible_number, marked_number, number, tagged


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 18", 18),
        ("so\n####18", 18),
        ("#### 1,234", 1234),
        ("#### $18", 18),
        ("#### -$5", -5),
        ("#### 18.", 18),
        ("#### 18.00", 18),
        ("#### 18\nmore words 3", 18),
        ("#### 1 #### 2", 2),  # the last one counts
        ("##### 7", 7),
        ("#### 18 19 20", None),  # a list is no answer
        ("#### 18, 19", None),
        ("#### 1,8", None),  # no thousands
        ("#### 1$8", None),
        ("#### 18 dollars", None),
        ("#### ", None),
        ("####", None),
        ("18", None),
        ("", None),
        ("#### １８", None),  # digits, but not those of an answer
        ("#### ٣", None),
        ("#### nan", None),
        ("#### inf", None),
        ("#### 1e3", None),
        ("#### 0x12", None),
        ("#### " + "9" * 200, None),
        ("#### \u00a018", None),  # a blank that no strip of ours takes away
        ("\x00#### 18", 18),
        ("#### −18", -18),  # a minus sign, as typographers write it
        ("#### +18", 18),
        (r"#### \$18", 18),
        (r"#### -\$1,018.50", "-1018.50"),
        ("#### 1\u202f018\u00a0000", 1018000),  # a number, whose thousands stand apart
        ("#### 1 018", None),  # or two
        ("#### 1/2", None),
        ("#### 18%", None),
        ("#### **18**", None),
        (r"#### \boxed{18}", None),
        ("####\n18", None),
        ("#### 1,00,000", None),
    ],
)
def test_the_marked_number(text, found):
    assert marked_number(text) == (None if found is None else Decimal(found))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the answer is 18", 18),
        ("18 apples cost $3.50", Decimal("3.50")),
        ("#### 18 and then 5", 5),  # that line is no single number
        ("#### 18\nand then 5", 18),
        (r"\boxed{18} of 20", 18),
        (r"\boxed{x} of 20", 20),
        ("1,234,567 in all", 1234567),
        ("12,34", 34),
        ("It costs $1,000.00.", 1000),
        ("-$5 in all", -5),
        ("it is −5 degrees", -5),  # and not 5
        ("10-3", 3),  # no number is negative here
        ("x-2", 2),
        ("(4)-2", 2),
        ("a loss of -2", -2),
        ("#### 18 dollars, or 3 each.", 3),
        ("#### 18 dollars.\nThat is 3 times as much.", 18),
        ("####\n18", 18),
        (r"#### \boxed{18}", 18),
        ("#### **18**", 18),
        ("18 #### no number", 18),
        (r"\boxed{\$18} and 3 cents", 18),
        (r"\boxed{18\text{ dollars}} for 3", 18),
        (r"\boxed{x = 18} and 3", 18),
        (r"\boxed{1{,}018} 3", 1018),
        (r"$1\,018$", 1018),
        ("1/2", Fraction(1, 2)),  # and not 2
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\dfrac{1,000}{2.5}", 400),
        ("36/2", 18),
        ("$12/hour", 12),
        ("1/0", None),
        ("50%", 50),
        ("no number", None),
        ("", None),
    ],
)
def test_the_flexible_number(text, found):
    assert flexible_number(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<answer>7</answer>", "7"),
        ("a <answer> 7 \n</answer> b", "7"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1<answer>2</answer>", "2"),
        ("<answer>1</answer></answer>", "1</answer>"),
        ("</answer>1<answer>", None),
        ("<answer>1", None),
        ("1</answer>", None),
        ("<answer></answer>", ""),
        ("", None),
        ("<ANSWER>1</ANSWER>", None),
    ],
)
def test_the_tagged_answer(text, found):
    assert tagged(text) == found


def test_what_is_boxed_has_matching_braces():
    assert boxed(r"\boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert boxed(r"\boxed{1} \boxed{2}") == "2"
    assert boxed(r"\boxed{1") is None
    assert boxed("boxed{1}") is None


def test_numbers_are_compared_exactly():
    assert number("0.1") == Decimal("0.1")
    assert number("18.000") == number("18")
    assert number("--18") is None
    assert number("1.2.3") is None


HUGE = {
    "digits": "1" * 1_000_000,
    "commas": "1," * 500_000,
    "thousands": "1,111" * 200_000,
    "minus signs": "-" * 1_000_000,
    "markers": "####" * 250_000,
    "opened tags": "<answer>" * 125_000,
    "closed tags": "</answer>" * 110_000,
    "boxes": r"\boxed{" * 140_000,
    "braces": r"\boxed{" + "{" * 1_000_000,
    "fractions": r"\frac{1" * 150_000,
    "slashes": "1/" * 500_000,
    "blanks": " " * 1_000_000,
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("extract", [marked_number, flexible_number, tagged, boxed])
def test_a_huge_completion_takes_no_more_than_a_look_at_each_character(extract, text):
    """One that looks back and forth would not come to an end here."""
    extract(text)
    extract(text + "x")
