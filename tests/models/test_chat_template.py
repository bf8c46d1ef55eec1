"""Chat templates are programs of whoever made the model: what they take is bounded, and they end no run."""

import signal
import sys

import pytest
from tiny_models import chat_tokenizer

from secbatch.errors import ModelError, SecbatchError
from secbatch.models import chat_template
from secbatch.models.chat_template import ChatTemplate

QUESTION = [{"role": "user", "content": "What is <b>DDoS</b>?\u2028'\"\ud800"}]
TWICE_AND_TWICE = (
    "{% set text = namespace(x='x') %}{% for n in range(60) %}{% set text.x = text.x + text.x %}{% endfor %}"
)


def template(text: str) -> ChatTemplate:
    hf = chat_tokenizer()
    hf.chat_template = text
    return ChatTemplate(hf, "tiny")


def test_the_text_is_that_of_apply_chat_template() -> None:
    hf = chat_tokenizer()
    for messages in (QUESTION, [*QUESTION, {"role": "assistant", "content": "An attack."}, *QUESTION]):
        wanted = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ChatTemplate(hf, "tiny").render(messages) == wanted


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes more than 1 seconds"),
        ("{{ 7 ** (7 ** 9) }}", "takes more than 1 seconds"),  # amid one operation
        (TWICE_AND_TWICE, "takes more than 1,024 MiB"),
        ("{{ 'x' * 2000000 }}", "writes 2,000,000 characters, and 1,048,576 are admitted"),
    ],
)
def test_what_has_no_end_is_one_sentence(text: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "1 seconds" in problem:
        monkeypatch.setattr(chat_template, "SECONDS", 1)
    with pytest.raises(ModelError, match=f"tiny: its chat template cannot be rendered: it {problem}"):
        template(text).render(QUESTION)
    assert template("{{ messages[0].content[:4] }}").render(QUESTION) == "What"


def test_the_process_may_be_killed() -> None:
    good = template("{{ messages[0].content[:4] }}")
    assert good.render(QUESTION) == "What"
    process = chat_template._renderer._process
    assert process is not None
    process.kill()
    process.wait()
    assert good.render(QUESTION) == "What"
    assert chat_template._renderer._process not in (None, process)


def test_an_interrupt_leaves_no_answer_for_the_next_one() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    assert template("first").render(QUESTION) == "first"
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            template("{{ 7 ** (7 ** 9) }}").render(QUESTION)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert template("second").render(QUESTION) == "second"


def test_a_process_that_cannot_be_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_renderer", chat_template._Renderer())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(SecbatchError, match=r"renders chat templates cannot be started: .*No such file"):
        template("x").render(QUESTION)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SecbatchError, match=r"ends before the first one \(exit code 1\); see whether"):
        template("x").render(QUESTION)
