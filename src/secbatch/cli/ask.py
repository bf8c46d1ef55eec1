"""`secbatch mask` and `secbatch ask`: one sentence, one question."""

import sys

import click

from secbatch.cli import options
from secbatch.cli.terminal import bold, printable
from secbatch.errors import ModelError
from secbatch.working_folder import check_working_folder


@click.command()
@click.argument("sentence")
@options.mask_model
@click.option("--top-k", type=click.IntRange(1, 1000), default=10, show_default=True, help="Words for each <mask>.")
@click.option("--target", "targets", multiple=True, metavar="WORD", help="Rank only these words (repeatable).")
@options.device
@options.precision
def mask(sentence: str, mask_model: str, top_k: int, targets: tuple[str, ...], device: str, precision: str) -> int:
    """Predict the words for each <mask> in SENTENCE.

    \b
    secbatch mask "Sending huge amounts of packets leads to <mask>."
    """
    if "<mask>" not in sentence:
        raise click.UsageError("The sentence has no <mask>; put one where a word is to be predicted.")
    check_working_folder()
    import pyarrow as pa

    from secbatch.models.device import choose
    from secbatch.models.resolve import resolve
    from secbatch.models.shared_encoder import SharedEncoder
    from secbatch.task_specs import FillMask
    from secbatch.tasks.fill_mask import FillMaskTask

    spec = FillMask(type="fill-mask", model=mask_model, text="sentence", top_k=top_k, targets=targets or None)
    table = pa.table({"sentence": [sentence]})
    task = FillMaskTask("mask", spec, table.schema, SharedEncoder(resolve(mask_model), choose(device, precision)))
    task.load()
    done = task.finish(task.compute(task.encode(table, pa.array(["0"]), pa.array([True]))))
    if done.errors:
        raise ModelError(done.errors[0])
    click.echo(f"{bold('Input:')} {printable(sentence)}")
    predictions = done.columns["mask_predictions"][0].as_py()
    for number, words in enumerate(predictions, 1):
        label = f"mask {number}" if len(predictions) > 1 else "mask"
        text = " | ".join(printable(word["token"]) for word in words) or "(outside the model's window)"
        click.echo(f"{bold(label + ':')} {text}")
    return 0


@click.command(short_help="Answer one question, or hold a conversation.")
@click.argument("question", required=False)
@options.chat_model
@options.device
@options.precision
def ask(question: str | None, chat_model: str, device: str, precision: str) -> int:
    """Answer QUESTION; without one, hold a conversation until an empty line.

    \b
    secbatch ask "What is DDoS"
    """
    if question is not None and not question.strip():
        raise click.UsageError("The question is empty.")
    check_working_folder()
    interactive = question is None and sys.stdin.isatty()
    if interactive:  # said first: a large model takes a while to load
        click.echo(f"Loading {printable(chat_model)}. Then ask; an empty line ends the conversation.", err=True)
    from secbatch.models.device import choose
    from secbatch.models.resolve import resolve
    from secbatch.task_specs import Chat
    from secbatch.tasks.chat_conversation import Conversation

    # Validated from values, so that the model's own prompt is chosen as a job file's would be.
    # vLLM takes a minute to start, which one question is not worth.
    spec = Chat.model_validate({"type": "chat", "model": chat_model, "text": "question", "runtime": "torch"})
    conversation = Conversation(spec, resolve(chat_model), choose(device, precision))
    if question is not None:
        click.echo(printable(conversation.reply(question)))
        return 0
    while line := _next_line(interactive):
        click.echo(printable(conversation.reply(line)))
    return 0


def _next_line(interactive: bool) -> str:
    if interactive:
        try:
            return str(click.prompt("", default="", show_default=False, prompt_suffix="> ", err=True)).strip()
        except click.Abort:  # end of input
            return ""
    for line in sys.stdin:
        if line.strip():
            return line.strip()
    return ""
