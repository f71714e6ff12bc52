"""Every study by name. Adding one is a definition and one line here."""

from tpo_dist.studies.bandits import DIGITS, MANY_CONTEXTS, ONE_CONTEXT
from tpo_dist.studies.beyond import LONG_OUTPUTS, ROBUSTNESS
from tpo_dist.studies.definition import Study
from tpo_dist.studies.dense import DG_EPOCHS, TASK_VARIANTS, TEMPERATURE, VOCABULARY
from tpo_dist.studies.terminal import ABLATIONS, TERMINAL
from tpo_dist.studies.why import EPOCHS, GRADIENTS, GROUP_SIZES, MASKING

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        ONE_CONTEXT,
        MANY_CONTEXTS,
        DIGITS,
        VOCABULARY,
        TASK_VARIANTS,
        TERMINAL,
        ABLATIONS,
        GRADIENTS,
        GROUP_SIZES,
        EPOCHS,
        MASKING,
        TEMPERATURE,
        DG_EPOCHS,
        LONG_OUTPUTS,
        ROBUSTNESS,
    )
}
