"""Run a peer of the prompt search, CAPO or MIPROv2, for some seconds, and judge the prompt that it found.

It runs in the peer's own interpreter, where promptolution 2.3 or DSPy 3.4 is installed, and needs nothing of attar. The
search is a child process that is ended when its time is over; what it has found by then is in the result file.

    python prompt_peers.py capo --data data.json --url http://127.0.0.1:8090/v1 --seconds 900 --seed 0 --out capo.json
    python prompt_peers.py mipro --data data.json --url http://127.0.0.1:8090/v1 --seconds 900 --seed 0 --out mipro.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import multiprocessing
import os
import random
import re
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

Rows = Sequence[Sequence[str]]
BATCH = 40  # test examples between two writes of the result
LABEL_TOKENS, TEXT_TOKENS, WRAPPING_TOKENS = 16, 24, 24  # of an answer; of the tags or JSON that a peer puts around it
PROPOSAL_TOKENS = 256  # of a proposed instruction; a small model that does not stop would write thousands
START_SECONDS = 300  # within which the child must have imported its library
SAVE_SECONDS = 5
FORGIVING = 10**6  # answers that cannot be parsed are wrong answers; DSPy would stop at the tenth


@dataclass(frozen=True)
class Job:
    """Hold what a peer is to do.

    Args:
        peer: its name in ``PEERS``.
        data: the task, its examples and the first instructions.
        url: of the model's chat server, with ``/v1``.
        seconds: of the search, at most.
        seed: of the search.
        threads: requests at a time.
        out: file of the result.
    """

    peer: str
    data: dict[str, Any]
    url: str
    seconds: float
    seed: int
    threads: int
    out: Path

    @property
    def labels(self) -> bool:
        """Tell whether the answers are labels."""
        return bool(self.data["task"] == "classification")


def library(name: str) -> Any:
    """Return a module of the peer's library, which the other interpreters do not have."""
    return importlib.import_module(name)


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result so that the file is whole at every instant."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(beside, path)


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L: the F1 of the longest common subsequence of lower-case words, 0 to 1.

    Example:
        >>> rouge_l("The cat sat.", "the cat slept")
        0.6666666666666666
    """
    mine, theirs = (re.findall(r"[a-z0-9]+", text.lower()) for text in (answer, reference))
    row = [0] * (len(theirs) + 1)
    for word in mine:
        before = row
        row = [0]
        for i, other in enumerate(theirs):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[i]))
    return 2 * row[-1] / (len(mine) + len(theirs)) if row[-1] else 0.0


def score(job: Job, answer: str, reference: str) -> float:
    """Return how good an answer is, 0 to 1."""
    return float(answer == reference) if job.labels else rouge_l(answer, reference)


class Errors(logging.Handler):
    """Count the errors that a library logs and goes on after."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count an error by its exception, or by the words of its message that name one."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            what = repr(record.exc_info[1])
        else:  # DSPy writes the whole example before the exception
            named = re.search(r"\w*(Error|Exception)\b(?! for ).{0,120}|(?<=: )\w[^:\n]{0,120}", message)
            what = named.group() if named else message
        self.counts[f"{record.name}: {what[:200]}"] += 1

    def lines(self) -> list[str]:
        """Return the most frequent errors, each with its count."""
        self.acquire()  # other threads log
        try:
            return [f"{count} x {what}" for what, count in self.counts.most_common(20)]
        finally:
            self.release()


class Record:
    """Keep the best prompt so far in the result file.

    Args:
        job: whose result it is.
        calls: returns the requests so far.
    """

    def __init__(self, job: Job, calls: Callable[[], int]) -> None:
        self.job, self.calls, self.errors = job, calls, Errors()
        self.begin, self.finished, self.lock = time.monotonic(), False, threading.Lock()
        name = {"capo": "promptolution", "mipro": "dspy"}[job.peer]
        logging.getLogger(name).addHandler(self.errors)
        self.result: dict[str, Any] = {"peer": job.peer, "version": version(name), "curve": []}

    def keep(self, answer: Any, prompt: str, dev: float | None = None) -> None:
        """Keep a prompt, as the peer's data and as text, and its score on the development set, 0 to 1."""
        with self.lock:
            self.result |= {"answer": answer, "prompt": prompt}
            if dev is not None:
                self.result["curve"].append([round(time.monotonic() - self.begin, 2), round(float(dev), 4)])
        self.save()

    def save(self) -> None:
        """Write what is known."""
        with self.lock:
            self.result |= {"calls": self.calls(), "errors": self.errors.lines(), "finished": self.finished}
            write(self.job.out, self.result)

    def start(self) -> None:
        """Begin to count seconds, and save now and then, for calls and errors come between two prompts too."""

        def again() -> None:
            while True:
                time.sleep(SAVE_SECONDS)
                self.save()

        self.begin = time.monotonic()
        threading.Thread(target=again, daemon=True).start()


Start = Callable[[Record], None]


# CAPO --------------------------------------------------------------------------------------------------------------


def one_word(label: str) -> str:
    """Return a label as the one lower-case word that promptolution's first-occurrence predictor can find."""
    return re.sub(r"[^a-z0-9]", "", label.lower())


def in_words(job: Job, text: str) -> str:
    """Return a text with its labels as one word each."""
    for label in sorted(job.data["labels"], key=len, reverse=True) if job.labels else ():
        if not label.isalnum():
            text = text.replace(label, one_word(label))
    return text


def capo_rows(job: Job, rows: Rows) -> list[tuple[str, str]]:
    """Return rows with each text once, for promptolution drops repeated texts but not their answers."""
    return list({text: (text, one_word(answer) if job.labels else answer) for text, answer in rows}.values())


def capo_model(job: Job, tokens: int, **sampling: float) -> Any:
    """Return promptolution's client of the server, which counts its calls.

    Its limits are for a service that answers at once: 500 seconds for a whole batch, after which the search would end.
    """
    openai = library("openai")
    client: Any = library("promptolution.llms").APILLM

    class Model(client):
        calls = 0

        async def _ainvoke_once(self, prompt: str, system_prompt: str) -> Any:
            self.calls += 1
            try:
                return await super()._ainvoke_once(prompt, system_prompt)
            except openai.BadRequestError as error:  # a prompt over the context: a wrong answer, not the search's end
                logging.getLogger("promptolution.refused").error("%s", error)
                return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=""))])

    return Model(
        api_url=job.url,
        api_key="none",
        model_id="local",
        max_tokens=tokens,
        max_concurrent_calls=job.threads,
        call_timeout_s=3600,
        gather_timeout_s=24 * 3600,
        call_kwargs=sampling,
    )


def capo_predictor(job: Job) -> Any:
    """Return promptolution's predictor: the first label word in an answer, or the text between its tags.

    The first word suits a small model better than tags, which cost it ten tokens an answer and are often left out.
    """
    predictors = library("promptolution.predictors")
    if job.labels:
        words = [one_word(label) for label in job.data["labels"]]
        return predictors.FirstOccurrencePredictor(capo_model(job, LABEL_TOKENS, temperature=0.0), words)
    return predictors.MarkerBasedPredictor(capo_model(job, TEXT_TOKENS + WRAPPING_TOKENS, temperature=0.0))


def capo_task(job: Job) -> Any:
    """Return promptolution's task on the development set, in its blocks of 30."""
    pandas, tasks = library("pandas"), library("promptolution.tasks")
    frame = pandas.DataFrame(capo_rows(job, job.data["dev"]), columns=["x", "y"])
    shared = {
        "task_description": in_words(job, job.data["description"]),
        "eval_strategy": "sequential_block",
        "seed": job.seed,
    }
    if job.labels:
        return tasks.ClassificationTask(frame, **shared)
    frame["reference"] = frame["y"]
    return tasks.RewardTask(frame, reward_function=rouge_l, y_column="y", reward_columns=["reference"], **shared)


def search_capo(job: Job, start: Start) -> None:
    """Let CAPO search, with its own settings, from the given instructions."""
    random.seed(job.seed)
    library("numpy").random.seed(job.seed)
    callback: Any = library("promptolution.utils.callbacks").BaseCallback
    task, predictor, proposer = capo_task(job), capo_predictor(job), capo_model(job, PROPOSAL_TOKENS)
    record = Record(job, lambda: predictor.llm.calls + proposer.calls)

    def keep(prompt: Any, dev: float | None) -> None:
        record.keep([prompt.instruction, prompt.few_shots], str(prompt), dev)

    class Keep(callback):
        def on_step_end(self, optimizer: Any) -> bool:
            keep(optimizer.prompts[0], optimizer.scores[0])
            return True

    evaluate = task.evaluate

    def watched(prompts: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep the best prompt of a race too, as long as no step is over."""
        result = evaluate(prompts, *args, **kwargs)
        if not optimizer.scores:
            known = evaluate(
                prompts, predictor, eval_strategy="evaluated"
            ).agg_scores  # over all blocks, from its cache
            best = max(range(len(prompts)), key=lambda i: known[i])
            keep(prompts[best], known[best])
        return result

    task.evaluate = watched
    shots = library("pandas").DataFrame(capo_rows(job, job.data["train"]), columns=["x", "y"])
    optimizer = library("promptolution.optimizers").CAPO(
        predictor=predictor,
        task=task,
        meta_llm=proposer,
        initial_prompts=[in_words(job, text) for text in job.data["instructions"]],
        df_few_shots=shots,
        create_fs_reasoning=job.labels,  # a text that is to be written is hardly ever met exactly
        callbacks=[Keep()],
    )
    keep(optimizer.prompts[0], None)
    start(record)
    optimizer.optimize(n_steps=FORGIVING)


def answer_capo(job: Job, found: Any, texts: Sequence[str]) -> list[str]:
    """Return the answers to texts with a prompt that CAPO found."""
    instruction, shots = found
    prompt = str(library("promptolution.utils.prompt").Prompt(instruction, shots))
    answers, _ = capo_predictor(job).predict([prompt] * len(texts), list(texts))
    labels = {one_word(label): label for label in job.data["labels"]} if job.labels else {}
    return [labels.get(answer, answer) for answer in answers]


# MIPROv2 -----------------------------------------------------------------------------------------------------------


def dspy_model(job: Job, tokens: int, **sampling: float) -> Any:
    """Return DSPy's client of the server.

    DSPy knows what LM Studio's server can do, which is llama.cpp too, and asks it for answers that fit the JSON schema.
    """
    return library("dspy").LM("lm_studio/local", api_base=job.url, api_key="none", max_tokens=tokens, **sampling)


def dspy_program(job: Job) -> Any:
    """Set DSPy up and return the program to tune: text to label or to text.

    Small models do not keep to the marks of DSPy's usual adapter; JSON under a schema they cannot miss.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # no look-up of prices in the net
    dspy = library("dspy")
    tokens = (LABEL_TOKENS if job.labels else TEXT_TOKENS) + WRAPPING_TOKENS
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)  # a second run must not find the first's
    dspy.configure(lm=dspy_model(job, tokens, temperature=0.0), adapter=dspy.JSONAdapter())
    return dspy.Predict(dspy_signature(job))


def dspy_signature(job: Job) -> Any:
    """Return DSPy's form of the task: what goes in, what comes out, what is to be done."""
    dspy = library("dspy")
    kind = Literal[tuple(job.data["labels"])] if job.labels else str
    fields = {job.data["input"]: (str, dspy.InputField()), "answer": (kind, dspy.OutputField())}
    return dspy.Signature(fields, job.data["description"])


def dspy_rows(job: Job, rows: Rows) -> list[Any]:
    """Return rows as DSPy's examples."""
    dspy, name = library("dspy"), job.data["input"]
    return [dspy.Example(**{name: text, "answer": answer}).with_inputs(name) for text, answer in rows]


class Choice:
    """Choose among evaluated programs as MIPROv2 does: by the score on the whole development set.

    Until a second program has such a score, by the mean of the scores on parts of it, if that is above the first's.
    """

    def __init__(self) -> None:
        self.whole: list[tuple[float, Any]] = []
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.programs: dict[str, Any] = {}

    def add(self, value: float, program: Any, whole: bool) -> None:
        """Take an evaluation's score in."""
        state = program.dump_state()
        if whole:
            self.whole.append((value, state))
            return
        key = json.dumps(state, sort_keys=True, default=str)
        self.parts[key].append(value)
        self.programs[key] = state

    def best(self) -> tuple[float, Any]:
        """Return the best program's score and state."""
        candidates = self.whole[:1] if len(self.whole) < 2 else self.whole
        if len(self.whole) < 2:
            candidates = candidates + [(sum(v) / len(v), self.programs[key]) for key, v in self.parts.items()]
        return max(candidates, key=lambda pair: pair[0])


def search_mipro(job: Job, start: Start) -> None:
    """Let MIPROv2 search with its light settings, instructions and demonstrations together."""
    program = dspy_program(job)
    dspy, teleprompt = library("dspy"), library("dspy.teleprompt.mipro_optimizer_v2")
    asked = library("dspy.clients.base_lm").GLOBAL_HISTORY
    record, choice = Record(job, lambda: sum(not entry.get("cache_hit") for entry in asked)), Choice()
    _ = dspy.settings.lm.supported_params  # imports litellm, seconds that are not the search's

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        return score(job, prediction.answer or "", example.answer)

    evaluate = teleprompt.eval_candidate_program

    def watched(size: int, rows: Any, candidate: Any, *args: Any) -> Any:
        result = evaluate(size, rows, candidate, *args)
        choice.add(result.score, candidate, size >= len(rows))
        dev, state = choice.best()
        record.keep(state, readable(job, state), dev / 100)
        return result

    teleprompt.eval_candidate_program = watched
    optimizer = dspy.MIPROv2(
        metric=metric,
        prompt_model=dspy_model(job, PROPOSAL_TOKENS, temperature=1.0),
        auto="light",
        num_threads=job.threads,
        max_errors=FORGIVING,
        metric_threshold=None if job.labels else 0.3,  # a written text as a demonstration should be near the reference
        seed=job.seed + 1,  # MIPROv2 takes 0 for no seed
    )
    record.keep(program.dump_state(), readable(job, program.dump_state()))
    start(record)
    optimizer.compile(program, trainset=dspy_rows(job, job.data["train"]), valset=dspy_rows(job, job.data["dev"]))


def readable(job: Job, state: Any) -> str:
    """Return the messages that a program sends, with the text's place in braces."""
    dspy = library("dspy")
    program = dspy.Predict(dspy_signature(job))
    program.load_state(state)
    blank = {job.data["input"]: "{text}"}
    messages = dspy.settings.adapter.format(program.signature, program.demos, blank)
    return "\n\n".join(f"<{message['role']}>\n{message['content']}" for message in messages)


def answer_mipro(job: Job, found: Any, texts: Sequence[str]) -> list[str]:
    """Return the answers to texts with a program that MIPROv2 found; an answer that cannot be parsed is empty."""
    program = dspy_program(job)
    program.load_state(found)
    rows = dspy_rows(job, [(text, "") for text in texts])
    answers = program.batch(rows, num_threads=job.threads, max_errors=FORGIVING)
    return [(answer.answer or "") if answer is not None else "" for answer in answers]


# Both --------------------------------------------------------------------------------------------------------------

PEERS = {"capo": (search_capo, answer_capo), "mipro": (search_mipro, answer_mipro)}


def search(job: Job, started: Any) -> None:
    """Search in the child process; an error ends the search and is kept beside what was found."""
    records: list[Record] = []

    def start(record: Record) -> None:
        records.append(record)
        record.start()
        started.set()

    failed = False
    try:
        PEERS[job.peer][0](job, start)
    except Exception:
        if not records:
            raise
        failed = True
        records[0].errors.counts[traceback.format_exc()[-600:]] += 1
    record = records[0]
    # promptolution ends a search at an error, which it only logs
    logged = any("promptolution.optimizers.base_optimizer" in line for line in record.errors.lines())
    record.finished = not failed and not logged
    record.save()


def run_search(job: Job) -> dict[str, Any]:
    """Run the search until it is done or its time is over, and return its result.

    Raises:
        SystemExit: the search did not start.
    """
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    child = context.Process(target=search, args=(job, started))
    child.start()
    waited = time.monotonic()
    while not started.wait(1):
        if not child.is_alive() or time.monotonic() > waited + START_SECONDS:
            child.kill()
            raise SystemExit(f"{job.peer} did not start; its own message is above.")
    begin = time.monotonic()
    child.join(job.seconds)
    seconds = time.monotonic() - begin
    child.kill()
    child.join()
    result = json.loads(job.out.read_text(encoding="utf-8"))
    return dict(result) | {"seconds": round(seconds, 2)}


def run_test(job: Job, result: dict[str, Any]) -> None:
    """Judge the prompt on the test examples, batch after batch, and write the result after each."""
    begin, scores = time.monotonic(), []
    for i in range(0, len(job.data["test"]), BATCH):
        rows = job.data["test"][i : i + BATCH]
        answers = PEERS[job.peer][1](job, result["answer"], [text for text, _ in rows])
        scores += [score(job, answer, reference) for answer, (_, reference) in zip(answers, rows, strict=True)]
        result["test_accuracy"] = sum(scores) / len(scores)
        result["test_n"] = len(scores)
        result["test_seconds"] = round(time.monotonic() - begin, 2)
        write(job.out, result)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--url", required=True, help="of the chat server, with /v1")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4, help="requests at a time; the server's slots")
    parser.add_argument("--out", type=Path, required=True)
    options = vars(parser.parse_args())
    job = Job(**options | {"data": json.loads(options["data"].read_text(encoding="utf-8"))})
    job.out.unlink(missing_ok=True)
    result = run_search(job)
    result |= {"test_accuracy": None, "test_n": 0, "test_seconds": 0.0}
    write(job.out, result)
    try:
        run_test(job, result)
    except Exception:
        write(job.out, result | {"errors": [*result["errors"], traceback.format_exc()[-600:]]})
        raise


if __name__ == "__main__":
    main()
