"""The bandit studies (arXiv 2604.06159, sections 3.1 to 3.3); all seeds of a setting advance together."""

from tpo_dist.studies.definition import Figure, Reported, Setting, Study

ONE_CONTEXT = Study(
    name="one_context",
    title="A bandit of 100 arms with one context: how good is an update within a context?",
    source="section 3.1, figure 2",
    seeds=100,
    settings=tuple(
        Setting(labels={"method": method}, engine="one_context", options={"method": method}, steps=150)
        for method in ("tpo", "dg", "grpo", "pg")
    ),
    reported=(
        Reported(name="final error", scale=100, unit="%", last=1),
        Reported(name="steps to 1 % error", kind="steps_to", threshold=0.01),
        Reported(name="misalignment, mean", curve="misalignment", last=150),
    ),
    figures=(Figure(curves=("error", "misalignment"), log=True),),
    note="The paper gives no numbers here: TPO and DG are the fastest.",
)

MANY_CONTEXTS = Study(
    name="many_contexts",
    title="100 contexts share one step, exact expected updates: where does the step go?",
    source="section 3.2, figure 3",
    seeds=100,
    settings=tuple(
        Setting(labels={"method": method}, engine="many_contexts", options={"method": method}, steps=1000)
        for method in ("tpo", "grpo", "dg", "pg", "ce")
    ),
    reported=(
        Reported(name="final error", scale=100, unit="%", last=1),
        Reported(name="steps to 1 % error", kind="steps_to", threshold=0.01),
        Reported(name="misalignment, mean", curve="misalignment", last=1000),
    ),
    figures=(Figure(curves=("error", "misalignment"), log=True),),
    note="ce is the oracle: the exact cross-entropy update. From the golden logits the curves are the author's own.",
)

_DIGITS = {"tpo": 2.9, "dg": None, "pg": 5.3, "grpo": 5.9, "group_pg": 7.2}
_DIGITS_TO_5 = {"tpo": 1600, "dg": 2200}
_FINAL = Reported(name="final test error", scale=100, unit="%", last=1)
_TO_5 = Reported(name="steps to 5 % test error", kind="steps_to", threshold=0.05)
_SURPLUS = Reported(
    name="surplus over one-vs-rest, top bin, step 2000", curve="mechanism_surplus_bin3", kind="at", step=2000
)

DIGITS = Study(
    name="digits",
    title="A network sees a handwritten digit, draws a class and learns only whether it was right",
    source="section 3.3, figure 4",
    seeds=20,
    settings=tuple(
        Setting(
            labels={"method": method},
            engine="digits",
            options={"method": method},
            steps=10_000,
            paper={
                **({} if error is None else {_FINAL.name: error}),
                **({_TO_5.name: _DIGITS_TO_5[method]} if method in _DIGITS_TO_5 else {}),
                **({_SURPLUS.name: 0.073} if method == "tpo" else {}),
            },
        )
        for method, error in _DIGITS.items()
    ),
    reported=(_FINAL, _TO_5, _SURPLUS),
    figures=(Figure(curves=("error", "mechanism_surplus_bin3", "concentration")),),
    note=(
        "The paper's figures are of MNIST, which source=mnist or source=folder path=FOLDER take instead of "
        "scikit-learn's 8x8 digits. Its first measurement, after 200 updates, has number 0: its 1,600 is 1,800 here."
    ),
)
