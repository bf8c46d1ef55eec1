"""Dialogues: the glossary, question forms, held-out pairs and the conversation format."""

import random

from secbatch.training import dialogue, dialogue_questions
from secbatch.training.dialogue import (
    PROMPT_PREFIX,
    UNKNOWN_TERM,
    DialogueSampler,
    conversation,
    pair_held_out,
)
from secbatch.training.dialogue_corpus import answer_sentence
from secbatch.training.dialogue_entries import INTENTS, Entry, merge, read_glossary
from secbatch.training.dialogue_questions import (
    FOLLOW_UP,
    FOLLOW_UP_HELD_OUT,
    NAMED,
    NAMED_HELD_OUT,
    fill,
    typed,
)

ENTRIES = merge([read_glossary()])


def test_glossary_entries_are_complete_and_short():
    assert len(ENTRIES) >= 250
    for entry in ENTRIES:
        wanted = ("prevent", "detect", "impact") if entry.kind == "attack" else ("use", "impact")
        assert {"what", *wanted} <= set(entry.answers) <= set(INTENTS), entry.term
        for answer in entry.answers.values():
            assert 3 <= len(answer.split()) <= 32 and answer.endswith("."), answer


def test_a_name_means_one_thing():
    names = [name.casefold() for entry in ENTRIES for name in entry.names]
    assert len(names) == len(set(names))
    first = Entry("Worm", ("network worm",), "attack", {"what": "A."}, "glossary", 1.0)
    later = Entry("worm", (), "software", {"what": "B."}, "ATT&CK", 1.0)
    other = Entry("Blaster", ("Network Worm", "Lovesan"), "software", {"what": "C."}, "ATT&CK", 1.0)
    merged = merge([[first], [later, other]])
    assert [(e.term, e.aliases) for e in merged] == [("Worm", ("network worm",)), ("Blaster", ("Lovesan",))]


def test_answer_sentence_is_the_first_one_without_links_and_citations():
    text = (
        "[APT0](https://attack.mitre.org/groups/G0000) is a group (e.g. spies) that steals plans."
        "(Citation: Some Vendor May 2020) It has more to say."
    )
    assert answer_sentence(text) == "APT0 is a group that steals plans."
    assert answer_sentence("Implementation: check every input against a list") == "Check every input against a list."
    assert answer_sentence("Too short.") is None
    assert answer_sentence("See https://example.com for all the details of this.") is None


def test_held_out_forms_are_in_no_training_list():
    for intent in INTENTS:
        assert not set(NAMED[intent]) & set(NAMED_HELD_OUT[intent])
    for intent, forms in FOLLOW_UP_HELD_OUT.items():
        assert not set(FOLLOW_UP[intent]) & set(forms)


def test_fill_keeps_the_case_of_a_term_and_starts_with_a_capital():
    assert fill("definition of {t}", "iOS") == "Definition of iOS"
    assert fill("{t}?", "iOS") == "iOS?"


def test_typed_never_makes_a_turn_mark():
    chance = random.Random(0)
    questions = {typed("How can we prevent it?", chance) for _ in range(300)}
    assert len(questions) > 5 and not any("  " in q for q in questions)


def test_conversation_joins_turns_with_two_spaces_and_prefixes_questions():
    turns = ("What is DDoS", "A DDoS attack floods.", "How can we prevent it?")
    assert conversation(turns) == "What is DDoS  A DDoS attack floods.  How can we prevent it?"
    assert conversation(turns, "P. ") == "P. What is DDoS  A DDoS attack floods.  P. How can we prevent it?"


def test_sampler_repeats_itself_and_avoids_held_out_pairs(monkeypatch):
    monkeypatch.setattr(dialogue, "typed", lambda question, chance: question)
    monkeypatch.setattr(dialogue, "name_as_typed", lambda name, chance: name)
    phishing = [e for e in ENTRIES if e.term == "phishing"]
    held_out = {f for f in FOLLOW_UP["prevent"] if pair_held_out("phishing", f)}
    held_out |= {fill(f, name) for i in INTENTS for f in NAMED[i] if pair_held_out("phishing", f)
                 for name in phishing[0].names}  # fmt: skip
    assert held_out
    drawn = DialogueSampler(phishing, ["HARDRAIN", "Pisloader"], seed=3).draw(2000)
    assert drawn == DialogueSampler(phishing, ["HARDRAIN", "Pisloader"], seed=3).draw(2000)
    about = [d for d in drawn if d.kind in ("single", "follow-up")]
    asked = {turn.removeprefix(PROMPT_PREFIX) for d in about for turn in d.turns[::2]}
    assert len(about) > 1500 and not asked & held_out


def test_a_follow_up_has_its_term_in_the_history_only(monkeypatch):
    monkeypatch.setattr(dialogue, "typed", lambda question, chance: question)
    drawn = [d for d in DialogueSampler(ENTRIES, [], seed=1).draw(500) if d.kind == "follow-up"]
    pronoun_forms = {form for forms in FOLLOW_UP.values() for form in forms}
    assert len(drawn) > 100
    for d in drawn:
        assert len(d.turns) in (3, 5)
        assert d.turns[-1].removeprefix(PROMPT_PREFIX) in pronoun_forms


def test_evaluation_sets_hold_only_what_training_never_sees():
    sets = dialogue.evaluation_sets(ENTRIES, ["HARDRAIN", "Pisloader", "LookBack"], seed=5, count=60)
    trained = {f for forms in NAMED.values() for f in forms}
    for d in sets["single, unseen form"]:
        question = d.turns[0].removeprefix(PROMPT_PREFIX)
        assert not any(question == fill(f, name) for e in ENTRIES for name in e.names for f in trained if f != "{t}")
    assert all(len(d.turns) == 3 for d in sets["follow-up, unseen pair"])
    assert {d.answer for d in (*sets["unknown name"], *sets["invented word"])} == {UNKNOWN_TERM}
    assert all(len(d.turns) == 5 for d in sets["second follow-up, unseen pair"])
    assert all(d.source == "glossary" for d in sets["single, unseen pair"])


def test_extra_forms_name_the_term_or_use_a_pronoun():
    assert all("{t}" in f for forms in (*NAMED.values(), *NAMED_HELD_OUT.values()) for f in forms)
    follow_ups = (*FOLLOW_UP.values(), dialogue_questions.ACTOR_EXAMPLE_FOLLOW_UP)
    assert not any("{t}" in f for forms in follow_ups for f in forms)
