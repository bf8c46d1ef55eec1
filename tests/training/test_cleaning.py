"""Cleaning and sentence splitting of corpus text."""

from secbatch.training.cleaning import clean_description, split_sentences


def test_links_citations_and_tags_go_and_their_words_stay() -> None:
    text = (
        "[Mimikatz](https://attack.mitre.org/software/S0002) runs <code>lsadump</code>.(Citation: Deply (2015) Blog) "
        "See [Docs](https://x.y/a_(b))."
    )
    assert clean_description(text) == "Mimikatz runs lsadump . See Docs."


def test_sentences_end_at_stops_and_line_breaks_but_not_in_abbreviations() -> None:
    text = "Use a tool, e.g. Nmap for that. Version v1.2.3 is at evil.com today.\nThe next line goes on here"
    assert split_sentences(text) == [
        "Use a tool, e.g. Nmap for that.",
        "Version v1.2.3 is at evil.com today.",
        "The next line goes on here",
    ]


def test_fragments_of_a_few_words_are_no_sentences() -> None:
    assert split_sentences("Summary\nSee also below.\nThis one has enough words.") == ["This one has enough words."]
